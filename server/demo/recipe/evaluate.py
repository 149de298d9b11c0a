"""Measures a stored model on held-out items; an answer counts only when every token of it is what greedy decoding gives."""

import argparse
import json
import math
import pathlib
import random

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

import passkey
from corpus import Document, document, render
from quantize import load

KINDS = {
    "arithmetic": 1000, "arithmetic of three digits": 300, "word problem": 300, "fact": 300, "JSON": 300, "tool call": 300,
    "repeat": 300, "told": 300, "question about a story": 300, "counting": 100,
}
PASSKEY_LENGTHS = {1024: 200, 2048: 200, 4096: 200, 8192: 100, 16384: 25}
TEXTS = 200


def passkey_document(rng, tokenizer, tokens: int, style: str = "plain") -> Document:
    """A recall of nearly the wanted length, its answer included, never over it."""
    characters, state = tokens * 4.6, rng.getrandbits(64)
    while True:
        asked, answer = passkey.turn(random.Random(state), True, int(characters), style)
        made = Document("passkey", [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}])
        length = len(tokenizer.encode(render(made)))
        if length <= tokens:
            return made
        characters *= 0.995 * tokens / length


def prompt_and_answer(tokenizer, made: Document) -> tuple:
    """Token ids up to the last assistant turn, and of that turn with its end."""
    prompt = Document(made.kind, made.messages[:-1], made.tools)
    prompt_text, whole = render(prompt, add_generation_prompt=True), render(made)
    assert whole.startswith(prompt_text)
    answer = whole[len(prompt_text):].removesuffix("\n")
    return tokenizer.encode(prompt_text).ids, tokenizer.encode(answer).ids


@torch.no_grad()
def is_answered(decoder, pairs: list, device) -> list:
    """Greedy decoding gives the answer exactly when each of its tokens is the likeliest after those before it."""
    results = [None] * len(pairs)
    order = sorted(range(len(pairs)), key=lambda i: len(pairs[i][0]) + len(pairs[i][1]))
    start = 0
    while start < len(order):
        longest = len(sum(pairs[order[start]], []))
        some = order[start : start + max(1, 65536 // (2 * longest))]
        width = max(len(sum(pairs[i], [])) for i in some)
        ids = torch.zeros(len(some), width, dtype=torch.long)
        for row, i in enumerate(some):
            both = sum(pairs[i], [])
            ids[row, : len(both)] = torch.tensor(both)
        hidden = decoder(ids.to(device))[0].unflatten(0, ids.shape)
        for row, i in enumerate(some):
            prompt, answer = pairs[i]
            at = hidden[row, len(prompt) - 1 : len(prompt) + len(answer) - 1]
            results[i] = decoder.logits(at).argmax(-1).tolist() == answer
        start += len(some)
    return results


@torch.no_grad()
def perplexity(decoder, texts: list, device) -> tuple:
    """Of all tokens but the first of each text."""
    total, count = 0.0, 0
    for ids in texts:
        row = torch.tensor([ids], device=device)
        logits = decoder.logits(decoder(row)[0])
        total += F.cross_entropy(logits[:-1].double(), row[0, 1:], reduction="sum").item()
        count += len(ids) - 1
    return math.exp(total / count), count


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--share", type=float, default=1.0, help="of the items, for a quick look")
    parser.add_argument("--longest", type=int, default=16384)
    parser.add_argument("--misses", type=int, default=0, help="print so many wrong answers of each kind")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    decoder = load(options.folder).to(device)
    tokenizer = Tokenizer.from_file(str(options.folder / "tokenizer.json"))
    rng = random.Random(options.seed)
    sets = {
        kind: [document(rng, held_out=True, kind=kind) for _ in range(max(1, int(count * options.share)))]
        for kind, count in KINDS.items()
    }
    for length, count in PASSKEY_LENGTHS.items():
        if length <= options.longest:
            made = [passkey_document(rng, tokenizer, length) for _ in range(max(1, int(count * options.share)))]
            sets[f"passkey in {length} tokens"] = made
    length = min(4096, options.longest)
    sets[f"one of several codes in {length} tokens"] = [
        passkey_document(rng, tokenizer, length, "several") for _ in range(max(1, int(100 * options.share)))
    ]
    report = {}
    for kind, documents in sets.items():
        pairs = [prompt_and_answer(tokenizer, made) for made in documents]
        right = is_answered(decoder, pairs, device)
        report[kind] = [sum(right), len(right)]
        print(f"{kind:34} {sum(right):5} of {len(right):5} {sum(right) / len(right):7.1%}", flush=True)
        for made in [m for m, ok in zip(documents, right) if not ok][: options.misses]:
            print("   ", json.dumps([m["content"][-80:] for m in made.messages[-2:]]))
    for kind in ("plain text", "story"):
        texts = [tokenizer.encode(render(document(rng, True, kind))).ids for _ in range(max(1, int(TEXTS * options.share)))]
        value, count = perplexity(decoder, texts, device)
        report[f"perplexity of {kind}"] = [value, count]
        print(f"perplexity of {kind:20} {value:8.3f} on {count} tokens", flush=True)


if __name__ == "__main__":
    main()
