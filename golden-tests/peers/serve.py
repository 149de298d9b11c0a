#!/usr/bin/env python3
"""Two OpenAI-compatible servers under the same clients, in turn: time to first token, tokens per second, peak memory.

    golden-tests/peers/serve.py --a 'target/release/swiftlm --model DIR --port {port}' \
        --b 'llama-server -m FILE -t 2 -c 9216 -np 8 --port {port}'

Needs nothing but Python. Each server is started alone, asked one warming request, measured at every number of clients
and prompt length, and stopped; then the other; round after round. Prompts differ between requests, so no cache of
prompts helps. Servers listen on loopback.
"""

import argparse
import http.client
import json
import shlex
import socket
import statistics
import subprocess
import threading
import time


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def request(port, prompt, tokens):
    """(seconds to the first token, seconds to the last, tokens)."""
    body = {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "stream": True, "ignore_eos": True}
    body["stream_options"] = {"include_usage": True}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    start = time.perf_counter()
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    reply = connection.getresponse()
    if reply.status != 200:
        raise RuntimeError(reply.read().decode())
    first = last = usage = None
    for line in reply:
        if not line.startswith(b"data: {"):
            continue
        event = json.loads(line[6:])
        if event.get("choices"):
            last = time.perf_counter()
            first = first or last
        usage = event.get("usage") or usage
    return first - start, last - start, usage["completion_tokens"], usage["prompt_tokens"]


def memory(pid):
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))


def prompt(number, words):
    return " ".join(str((number * 7919 + i * 104729) % 997) for i in range(words))


def measure(command, a):
    port = free_port()
    started = time.perf_counter()
    server = subprocess.Popen(shlex.split(command.format(port=port)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    results = {}
    try:
        while True:
            try:
                request(port, "1 2 3", 2)
                break
            except (OSError, RuntimeError, TypeError, http.client.HTTPException):
                if server.poll() is not None or time.perf_counter() - started > 300:
                    raise SystemExit(f"does not start: {command}")
                time.sleep(0.02)
        results["start"] = time.perf_counter() - started
        number = 0
        for words in a.words:
            for clients in a.clients:
                replies = [None] * clients

                def one(i, n):
                    replies[i] = request(port, prompt(n, words), a.tokens)

                threads = [threading.Thread(target=one, args=(i, number + i)) for i in range(clients)]
                number += clients
                begin = time.perf_counter()
                [t.start() for t in threads]
                [t.join() for t in threads]
                seconds = time.perf_counter() - begin
                first = statistics.median(r[0] for r in replies)
                results[words, clients] = first, sum(r[2] for r in replies) / seconds, replies[0][3]
        results["peak"] = memory(server.pid)
    finally:
        server.terminate()
        server.wait()
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--a", required=True)
    parser.add_argument("--b", required=True)
    parser.add_argument("--clients", type=lambda t: [int(n) for n in t.split(",")], default=[1, 4, 8])
    parser.add_argument("--words", type=lambda t: [int(n) for n in t.split(",")], default=[16, 128])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    a = parser.parse_args()
    rounds = [(measure(a.a, a), measure(a.b, a)) for _ in range(a.rounds)]

    def row(name, of):
        us, them = ([of(pair[side]) for pair in rounds] for side in (0, 1))
        ratio = statistics.median(u / t for u, t in zip(us, them))
        print(f"| {name} | {statistics.median(us):.2f} | {statistics.median(them):.2f} | {ratio:.2f} |")

    print("| | A | B | A / B |\n|---|---|---|---|")
    row("start to first reply, s", lambda r: r["start"])
    for words in a.words:
        for clients in a.clients:
            name = f"{rounds[0][0][words, clients][2]} prompt tokens, {clients} clients"
            row(f"{name}: median time to first token, s", lambda r: r[words, clients][0])
            row(f"{name}: tokens/s in all", lambda r: r[words, clients][1])
    row("peak memory, MiB", lambda r: r["peak"])


main()
