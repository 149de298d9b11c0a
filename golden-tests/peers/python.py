#!/usr/bin/env python3
"""swiftlm's own bench against transformers or mlx-lm, in turn, on the CPU of the same machine: medians and ratios.

    golden-tests/peers/python.py --swiftlm target/release/swiftlm --model DIR --peer transformers [--dtype float32]
    golden-tests/peers/python.py --swiftlm target/release/swiftlm --model DIR --peer mlx

Both read the same checkpoint, for mlx-lm one in MLX's layout. Needs what golden-tests/references/requirements.txt names
in the Python that runs it. A round is one prompt in one pass, then tokens one by one over its cache; the first round of
either is not counted.
"""

import argparse
import importlib
import time

from bench import ours, report


def wanted(name):
    try:
        return importlib.import_module(name)
    except ImportError as e:
        raise SystemExit(f"{name} is missing ({e}): pip install -r golden-tests/references/requirements.txt") from e


class Transformers:
    def __init__(self, a):
        self.torch, transformers = wanted("torch"), wanted("transformers")
        self.torch.set_num_threads(a.threads)
        dtype = getattr(self.torch, a.dtype)
        model = transformers.AutoModelForCausalLM.from_pretrained(a.model, dtype=dtype, attn_implementation="sdpa")
        self.model = model.eval()

    def prefill(self, ids):
        with self.torch.inference_mode():
            out = self.model(self.torch.tensor([ids]), use_cache=True, logits_to_keep=1)
        self.cache = out.past_key_values
        return int(out.logits[0, -1].argmax())

    def step(self, token):
        with self.torch.inference_mode():
            out = self.model(self.torch.tensor([[token]]), past_key_values=self.cache, use_cache=True)
        return int(out.logits[0, -1].argmax())


class Mlx:
    def __init__(self, a):
        self.mx = wanted("mlx.core")
        self.mx.set_default_device(self.mx.cpu)
        self.make_cache = wanted("mlx_lm.models.cache").make_prompt_cache
        load_model = wanted("mlx_lm.utils").load_model
        self.model = load_model(wanted("pathlib").Path(a.model))[0]

    def prefill(self, ids):
        self.cache = self.make_cache(self.model)
        return self.last(ids)

    def step(self, token):
        return self.last([token])

    def last(self, ids):
        return int(self.mx.argmax(self.model(self.mx.array([ids]), cache=self.cache)[0, -1]))


def peer(model, a):
    ids = [(i * 37 + 11) % 1000 for i in range(a.prefill)]
    start = time.perf_counter()
    token = model.prefill(ids)
    filled = time.perf_counter()
    for _ in range(a.generate):
        token = model.step(token)
    end = time.perf_counter()
    return {"prefill": a.prefill / (filled - start), "decode": a.generate / (end - filled)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ["--swiftlm", "--model"]:
        parser.add_argument(name, required=True)
    parser.add_argument("--peer", choices=["transformers", "mlx"], required=True)
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16", help="of transformers")
    parser.add_argument("--threads", type=int, default=2, help="mlx-lm takes what it likes")
    parser.add_argument("--prefill", type=int, default=512)
    parser.add_argument("--generate", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--flag", action="append", default=[], help="a further flag of `swiftlm bench`")
    a = parser.parse_args()
    model = {"transformers": Transformers, "mlx": Mlx}[a.peer](a)
    pairs = [(ours(a, 0), peer(model, a)) for _ in range(a.rounds + 1)][1:]
    report(a.peer, [("0", pairs)])


if __name__ == "__main__":
    main()
