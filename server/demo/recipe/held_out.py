"""Writes the small held-out files that tests of the engine use."""

import argparse
import json
import pathlib
import random

from tokenizers import Tokenizer

from corpus import document, render
from evaluate import passkey_document

QUESTIONS, TEXT_TOKENS = 100, 10500
PASSKEYS = {1024: 3, 4096: 3, 8192: 1}
TEXT_KINDS = ["plain text", "story", "fact", "told", "arithmetic", "tool call", "JSON", "question about a story"]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path, help="holds the tokenizer")
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--seed", type=int, default=3)
    options = parser.parse_args()
    tokenizer = Tokenizer.from_file(str(options.folder / "tokenizer.json"))
    rng = random.Random(options.seed)
    options.out.mkdir(parents=True, exist_ok=True)

    def lines(name, rows):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (options.out / name).write_text(text)

    def row(made, **more):
        asked, answer = made.messages[-2:]
        return dict(more, prompt=asked["content"], answer=answer["content"])

    lines("arithmetic.jsonl", [row(document(rng, held_out=True, kind="arithmetic")) for _ in range(QUESTIONS)])
    lines("passkey.jsonl", [
        row(passkey_document(rng, tokenizer, tokens), tokens=tokens)
        for tokens, count in PASSKEYS.items() for _ in range(count)
    ])
    text, tokens = "", 0
    while tokens < TEXT_TOKENS:
        text += render(document(rng, held_out=True, kind=rng.choice(TEXT_KINDS))).rstrip("\n") + "<|endoftext|>"
        tokens = len(tokenizer.encode(text))
    (options.out / "text.txt").write_text(text)


if __name__ == "__main__":
    main()
