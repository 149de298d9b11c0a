"""Trains one of the two models; stops by itself, and goes on from its checkpoint when started again."""

import argparse
import os
import pathlib
import random
import time

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch.func import functional_call

from affine import fake_quantize
from corpus import Packer
from model import CONFIGS, Decoder
from quantize import export

# The share of steps per row length before and after the middle of training: recall forms on short rows first.
LENGTHS = [1024, 2048, 4096, 8192, 16384]
EARLY, LATE = [80, 14, 4, 2, 0], [58, 16, 10, 13, 3]


class Steps(torch.utils.data.Dataset):
    """The batch of each step, a function of the seed and the step alone."""

    def __init__(self, folder, seed: int, steps: int, tokens: int, first: int, longest: int):
        self.folder, self.seed, self.steps, self.tokens, self.first, self.longest = folder, seed, steps, tokens, first, longest
        self.packer = None

    def __len__(self):
        return self.steps - self.first

    def __getitem__(self, index):
        if self.packer is None:
            self.packer = Packer(Tokenizer.from_file(str(self.folder / "tokenizer.json")))
        step = self.first + index
        rng = random.Random(f"{self.seed}/{step}")
        length = min(rng.choices(LENGTHS, EARLY if step < self.steps // 2 else LATE)[0], self.longest)
        ids, weights = self.packer.rows(rng, max(1, self.tokens // length), length)
        return torch.from_numpy(ids), torch.from_numpy(weights)


def learning_rate(progress: float, step: int, peak: float) -> float:
    """A short rise, a plateau, and from the middle on a straight fall to nearly nothing."""
    return peak * min(1.0, (step + 1) / 200) * min(1.0, 2 * (1 - progress) + 0.01)


def loss_of(decoder, parameters, ids, weights):
    hidden, balance, loads = functional_call(decoder, parameters, (ids[:, :-1],))
    logits = F.linear(hidden.to(decoder.dtype), parameters["model.embed_tokens.weight"].to(decoder.dtype))
    losses = F.cross_entropy(logits.float(), ids[:, 1:].flatten(), reduction="none")
    weights = weights.flatten()
    answers = weights == 1
    answer = (losses * answers).sum() / answers.sum()
    total = (losses * weights).sum() / weights.sum()
    return total + decoder.config.get("router_aux_loss_coef", 0) * balance, answer, loads


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=CONFIGS)
    parser.add_argument("folder", type=pathlib.Path, help="holds the tokenizer; the model is written here")
    parser.add_argument("--checkpoint", type=pathlib.Path, help="written now and then and at the end; read when it is there")
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--minutes", type=float, default=600, help="all training ends here, the schedule adapting to it")
    parser.add_argument("--tokens", type=int, default=65536, help="per step")
    parser.add_argument("--longest", type=int, default=16384, help="rows are not longer than this")
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--rounded-from", type=float, default=0.5, help="share of training before weights are rounded")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--compiled", action="store_true")
    options = parser.parse_args()

    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(options.seed)
    decoder = Decoder(CONFIGS[options.name], torch.bfloat16 if device == "cuda" else torch.float32, options.compiled).to(device)
    matrices = [p for p in decoder.parameters() if p.ndim > 1]
    norms = [p for p in decoder.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [dict(params=matrices, weight_decay=0.05), dict(params=norms, weight_decay=0.0)],
        lr=options.rate, betas=(0.9, 0.95), fused=device == "cuda",
    )
    first, spent = 0, 0.0
    if options.checkpoint and options.checkpoint.exists():
        state = torch.load(options.checkpoint, map_location=device)
        decoder.load_state_dict(state["decoder"])
        optimizer.load_state_dict(state["optimizer"])
        first, spent = state["step"], state["seconds"]

    def save(step, seconds):
        if options.checkpoint:
            partial = options.checkpoint.with_suffix(".partial")
            torch.save(dict(decoder=decoder.state_dict(), optimizer=optimizer.state_dict(), step=step, seconds=seconds), partial)
            partial.replace(options.checkpoint)
        export(decoder, options.folder)

    print(f"{options.name}: {sum(p.numel() for p in decoder.parameters()) / 1e6:.2f}M parameters on {device}", flush=True)
    batches = torch.utils.data.DataLoader(
        Steps(options.folder, options.seed, options.steps, options.tokens, first, options.longest),
        batch_size=None, num_workers=options.workers, prefetch_factor=4 if options.workers else None, pin_memory=device == "cuda",
    )
    began = shown = saved = time.monotonic()
    seen, step, waited = 0, first, 0.0
    before = began
    for ids, weights in batches:
        waited += time.monotonic() - before
        ids, weights = ids.to(device, torch.long, non_blocking=True), weights.to(device, non_blocking=True)
        seconds = spent + time.monotonic() - began
        progress = max(step / options.steps, seconds / (60 * options.minutes))
        if progress >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(progress, step, options.rate)
        parameters = dict(decoder.named_parameters())
        if progress >= options.rounded_from:
            parameters = fake_quantize(parameters)
        loss, answer, loads = loss_of(decoder, parameters, ids, weights)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimizer.step()
        step, seen = step + 1, seen + weights.numel()
        before = time.monotonic()
        if before - shown > 15 or step == options.steps or step == first + 1:
            spread = f" experts {min(l.min() for l in loads):.2f}..{max(l.max() for l in loads):.2f}" if loads else ""
            print(f"step {step} {seconds:.0f}s {progress:.0%} loss {loss:.4f} answers {answer:.4f}{spread} "
                  f"{seen / max(before - began, 1e-9) / 1e6:.2f}M tokens/s waited {waited:.0f}s", flush=True)
            shown = before
        if before - saved > 60:
            save(step, seconds)
            saved = time.monotonic()
    save(step, spent + time.monotonic() - began)
    print(f"{options.name}: {step} steps, {spent + time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
