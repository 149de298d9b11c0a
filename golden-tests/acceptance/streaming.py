#!/usr/bin/env python3
"""A mixture of experts that is three times the memory it may use, served from disk: what it takes, and how fast it is.

    golden-tests/acceptance/streaming.py --swiftlm target/release/swiftlm --dir SCRATCH

Needs root (or a control group it may make children of), Python, and a disk that holds the checkpoint, which the script
makes unless there is one: Qwen3-30B-A3B's dimensions with fewer layers and random 4-bit weights. A model without experts is
served layer by layer. It measures the same checkpoint with all
experts in memory and the disk itself, then serves it in a control group with a third of its size, and compares: by each
method of reading and with experts read ahead, from the checkpoint and, with `--swiftlmc PATH`, from a package with records.
`--before PATH` measures another build of swiftlm beside it. With `--llama-server PATH --gguf FILE` it puts llama.cpp's
server, reading by mmap, into the same group.
"""

import argparse
import contextlib
import json
import os
import shutil
import struct
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

DEMO = Path(__file__).resolve().parents[2] / "server/demo/model"
MB = 1 << 20
SIZES = {"hidden": 2048, "heads": 32, "kv_heads": 4, "head": 128, "experts": 128, "top_k": 8, "inner": 768}


def config(layers):
    demo = json.loads((DEMO / "config.json").read_text())
    own = {
        "num_hidden_layers": layers,
        "hidden_size": SIZES["hidden"],
        "num_attention_heads": SIZES["heads"],
        "num_key_value_heads": SIZES["kv_heads"],
        "head_dim": SIZES["head"],
        "num_experts": SIZES["experts"],
        "num_experts_per_tok": SIZES["top_k"],
        "moe_intermediate_size": SIZES["inner"],
        "intermediate_size": 6144,
        "tie_word_embeddings": False,
        "max_position_embeddings": 8192,
        "quantization": {"group_size": 64, "bits": 4},
    }
    for key in ("quantization_config",):
        demo.pop(key, None)
    return {**demo, **own}


def matrices(c):
    """Name and shape of every quantised matrix, norms apart."""
    h, v, e, f = c["hidden_size"], c["vocab_size"], c["num_experts"], c["moe_intermediate_size"]
    q, kv = c["num_attention_heads"] * c["head_dim"], c["num_key_value_heads"] * c["head_dim"]
    yield "model.embed_tokens", (v, h)
    yield "lm_head", (v, h)
    for i in range(c["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        for name, shape in [("q", (q, h)), ("k", (kv, h)), ("v", (kv, h)), ("o", (h, q))]:
            yield f"{layer}self_attn.{name}_proj", shape
        yield f"{layer}mlp.gate", (e, h)
        for name, shape in [("gate", (e, f, h)), ("up", (e, f, h)), ("down", (e, h, f))]:
            yield f"{layer}mlp.switch_mlp.{name}_proj", shape


def tensors(c):
    """Name, type, shape and a function that writes the bytes of every tensor."""
    pool = os.urandom(16 * MB)

    def pooled(file, size, seed):
        at = seed * 7919 % MB
        while size:
            piece = pool[at : at + min(size, len(pool) - at)]
            file.write(piece)
            size, at = size - len(piece), 0

    def repeated(file, size, word):
        file.write(word * (size // len(word)))

    for seed, (name, shape) in enumerate(matrices(c)):
        *outer, rows, cols = shape
        bf16 = lambda x: struct.pack(">f", x)[:2][::-1]
        scale = 0.5 / cols**0.5
        yield f"{name}.weight", "U32", [*outer, rows, cols // 8], lambda f, n, s=seed: pooled(f, n, s)
        yield f"{name}.scales", "BF16", [*outer, rows, cols // 64], lambda f, n, w=bf16(scale): repeated(f, n, w)
        yield f"{name}.biases", "BF16", [*outer, rows, cols // 64], lambda f, n, w=bf16(-7.5 * scale): repeated(f, n, w)
    one = lambda f, n: repeated(f, n, b"\x80\x3f")
    yield "model.norm.weight", "BF16", [c["hidden_size"]], one
    for i in range(c["num_hidden_layers"]):
        for name in ["input_layernorm", "post_attention_layernorm"]:
            yield f"model.layers.{i}.{name}.weight", "BF16", [c["hidden_size"]], one
        for name in ["q_norm", "k_norm"]:
            yield f"model.layers.{i}.self_attn.{name}.weight", "BF16", [c["head_dim"]], one


def make(directory, layers):
    if (directory / "model.safetensors").exists():
        return
    directory.mkdir(parents=True, exist_ok=True)
    c = config(layers)
    for file in DEMO.iterdir():
        if file.name.startswith(("tokenizer", "generation", "chat_template", "special")):
            shutil.copy(file, directory)
    (directory / "config.json").write_text(json.dumps(c))
    header, at, all_tensors = {}, 0, list(tensors(c))
    for name, dtype, shape, _ in all_tensors:
        size = {"U32": 4, "BF16": 2}[dtype]
        for extent in shape:
            size *= extent
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    part = directory / "model.part"
    with part.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, _, _, write in all_tensors:
            begin, end = header[name]["data_offsets"]
            write(file, end - begin)
    part.rename(directory / "model.safetensors")


class Group:
    """A control group with a memory limit, of either hierarchy."""

    def __init__(self, limit):
        root = Path("/sys/fs/cgroup")
        v2 = (root / "cgroup.controllers").exists()
        self.path = (root if v2 else root / "memory") / "swiftlm-acceptance"
        names = ("memory.max", "memory.peak") if v2 else ("memory.limit_in_bytes", "memory.max_usage_in_bytes")
        self.cached = "file" if v2 else "cache"
        self.peak_file = self.path / names[1]
        try:
            self.path.mkdir(exist_ok=True)
            (self.path / names[0]).write_text(str(limit))
        except OSError as error:
            sys.exit(f"{self.path}: a control group with a memory limit cannot be made ({error}): run as root")
        print(f"control group {self.path}, {'v2' if v2 else 'v1'}, {limit // MB} MB")

    def command(self, words):
        return ["sh", "-c", f'echo $$ > {self.path}/cgroup.procs && exec "$@"', "sh", *map(str, words)]

    def cache(self):
        stat = dict(line.split() for line in (self.path / "memory.stat").read_text().splitlines())
        return int(stat[self.cached])

    def remove(self):
        with contextlib.suppress(OSError):
            self.path.rmdir()


def get(url, body=None):
    data = json.dumps(body).encode() if body else None
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=900) as reply:
        return json.loads(reply.read())


@contextlib.contextmanager
def server(command, url):
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        for _ in range(600):
            if process.poll() is not None:
                sys.exit(f"the server ended with {process.returncode}:\n{process.stderr.read()[-2000:]}")
            with contextlib.suppress(OSError):
                get(f"{url}/health")
                break
            time.sleep(0.5)
        yield process
    finally:
        process.terminate()
        process.wait(60)


def resident(pid):
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))


def ask(url, tokens, seed):
    body = {"prompt": f"The captain of ship {seed} wrote", "max_tokens": tokens, "temperature": 1.0, "seed": seed}
    return get(f"{url}/v1/completions", {**body, "ignore_eos": True})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--swiftlm", required=True)
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--requests", type=int, default=5)
    parser.add_argument("--swiftlmc")
    parser.add_argument("--before")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--rows", help="words of which a row must have one, such as `before,records`")
    parser.add_argument("--llama-server")
    parser.add_argument("--gguf")
    a = parser.parse_args()
    make(a.dir, a.layers)
    shard = a.dir / "model.safetensors"
    size = shard.stat().st_size
    run = lambda *words: subprocess.run([a.swiftlm, *map(str, words)], check=True, capture_output=True, text=True).stdout
    print(f"checkpoint of {size // MB} MB")
    # The best method is held against us.
    lines = lambda: run("iobench", shard, "--sizes", 2560, "--depths", 8).splitlines()[1:]
    rates = lambda: [words[2] for words in map(str.split, lines()) if len(words) > 4 and words[0].isdigit()]
    disk = lambda: max(map(float, rates())) * 1e9
    package = a.dir.with_name(a.dir.name + "-package")
    if a.swiftlmc and not package.exists():
        # All experts of a layer are one argument of a launch where all of them are in memory.
        flags = ["--repack", "--no-certificate", "--max-binding", "4096"]
        subprocess.run([a.swiftlmc, str(a.dir), "-o", str(package), *flags], check=True)
    url = "http://127.0.0.1:5499"
    serve = lambda program, model: [program, "--model", model, "--backend", "cpu", "--port", 5499]

    def speeds(command):
        with server(command, url) as process:
            ask(url, 8, 0)
            health = lambda: get(f"{url}/health")
            streamed = lambda: health().get("experts") or health().get("layers")
            read = lambda: (streamed() or {}).get("read_mb", 0) * MB
            marks, replies = [read()], []
            # The same requests with one token and with all: what the prompts read is in both.
            for tokens in (1, a.tokens):
                replies.append([ask(url, tokens, seed) for seed in range(1, a.requests + 1)])
                marks.append(read())
            rates = sorted(r["timings"]["predicted_per_second"] for r in replies[1])
            more = sum(r["usage"]["completion_tokens"] for r in replies[1]) - a.requests
            missed = ((marks[2] - marks[1]) - (marks[1] - marks[0])) / max(more, 1)
            return rates[len(rates) // 2], missed, streamed(), resident(process.pid)

    whole, _, _, whole_peak = speeds(list(map(str, serve(a.swiftlm, a.dir))))
    print(f"all in memory {whole:.1f} tok/s, {whole_peak // MB} MB")
    rows = [("before", serve(a.before, a.dir))] if a.before else []
    models = [("checkpoint", a.dir), ("records", package)] if a.swiftlmc else [("checkpoint", a.dir)]
    for name, model in models:
        rows += [(f"{name}, {io}", [*serve(a.swiftlm, model), "--io", io]) for io in ("pread", "uring")]
        ahead = [*serve(a.swiftlm, model), "--ssd-prefetch"]
        rows += [(f"{name}, read ahead {wish}", [*ahead, wish]) for wish in ("on", "auto")]
    wanted = a.rows.split(",") if a.rows else [""]
    rows = [row for row in rows if any(word in row[0] for word in wanted)]
    for name, command in rows * a.rounds:
        group = Group(size // 3)
        try:
            before = disk()
            rate, missed, experts, peak = speeds(group.command(command))
            cache = group.cache()
            # Disks drift: the better of two measures is held against us.
            bandwidth = max(before, disk())
            bound = min(whole, bandwidth / max(missed, 1))
            serial = 1 / (1 / whole + missed / bandwidth)
            print(f"{name}: {rate:.2f} tok/s with {experts['in_memory']} of {experts['of']} experts or layers in memory, "
                  f"{missed / 1e6:.1f} MB read for a token, hit rate {experts['hit_rate']}, disk {bandwidth / 1e9:.2f} GB/s")
            print(f"  {rate / bound:.2f} of min(in memory, disk / missed bytes), {rate / serial:.2f} of one after the other; "
                  f"by {experts.get('read_by', 'threads')}")
            if experts.get("prefetch"):
                print(f"  {json.dumps(experts['prefetch'])} of {experts['reads']} experts that were not in memory")
            print(f"  peak {peak // MB} MB resident, {cache // MB} MB of page cache, limit {size // 3 // MB} MB", flush=True)
        finally:
            group.remove()
    if a.llama_server:
        group = Group(size // 3)
        try:
            words = [a.llama_server, "-m", a.gguf, "--port", 5499, "-t", 2, "-c", 4096, "-np", 1, "--no-repack", "--no-warmup"]
            theirs = speeds(group.command(words))
            print(f"llama.cpp's server by mmap in the same group {theirs[0]:.2f} tok/s")
        finally:
            group.remove()


if __name__ == "__main__":
    main()
