#!/usr/bin/env python3
"""swiftlm's own bench against llama.cpp's, in turn, on the same machine: medians, and the ratio pair by pair.

    golden-tests/peers/bench.py --swiftlm target/release/swiftlm --model DIR --llama-bench PATH --gguf FILE

Needs nothing but Python. The two files must hold matrices of the same shapes at about the same bits per weight; what
they are is for the caller to say. Round after round each program runs once, so that a drift of the machine's speed
meets both; a ratio is taken within a round, and the median of the ratios is what counts.
"""

import argparse
import csv
import io
import json
import statistics
import subprocess


def run(command):
    return subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True).stdout


def ours(a, depth):
    flags = ["--backend", "cpu", "--threads", a.threads, "--depths", depth, "--prefill", a.prefill]
    table = run([a.swiftlm, "bench", "--model", a.model, *flags, "--generate", a.generate, *a.flag, "--csv"])
    row = next(csv.DictReader(io.StringIO(table)))
    return {"prefill": float(row["prefill_tok_s"]), "decode": float(row["decode_tok_s"]), "row": row}


def peer(a, depth):
    flags = ["-m", a.gguf, "-t", a.threads, "-r", 1, "-o", "json", "-d", depth]
    if depth:
        flags += ["-fa", "on"]
    rows = json.loads(run([a.llama_bench, *flags, "-p", a.prefill, "-n", a.generate]))
    speed = {"prefill" if row["n_prompt"] else "decode": row["avg_ts"] for row in rows}
    return {**speed, "row": {"build": rows[0]["build_commit"]}}


def report(name, runs):
    """A table of runs by depth, each rounds of what both programs gave."""
    print(f"| depth | work | swiftlm tok/s | {name} tok/s | ratio, median (least - most) | share of floor |")
    print("|---|---|---|---|---|---|")
    for depth, pairs in runs:
        for work in ["prefill", "decode"]:
            us, them = ([pair[side][work] for pair in pairs] for side in (0, 1))
            ratios = sorted(u / t for u, t in zip(us, them))
            share = [float(pair[0]["row"]["share_of_floor"] or "nan") for pair in pairs]
            floor = f"{statistics.median(share):.2f}" if work == "decode" else ""
            print(
                f"| {depth} | {work} | {statistics.median(us):.1f} | {statistics.median(them):.1f} "
                f"| {statistics.median(ratios):.2f} ({ratios[0]:.2f} - {ratios[-1]:.2f}) | {floor} |",
                flush=True,
            )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ["--swiftlm", "--model", "--llama-bench", "--gguf"]:
        parser.add_argument(name, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--depths", default="0")
    parser.add_argument("--prefill", type=int, default=512)
    parser.add_argument("--generate", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--flag", action="append", default=[], help="a further flag of `swiftlm bench`, as --flag=--kv=q8")
    a = parser.parse_args()
    depths = ((depth, int(depth)) for depth in a.depths.split(","))
    report("llama.cpp", ((name, [(ours(a, at), peer(a, at)) for _ in range(a.rounds)]) for name, at in depths))


if __name__ == "__main__":
    main()
