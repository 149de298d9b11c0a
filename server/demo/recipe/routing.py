"""Measures how unevenly a stored model uses its experts, and what a cache of half of them would hit."""

import argparse
import pathlib
import random
from collections import OrderedDict

import torch
from tokenizers import Tokenizer

import model
from corpus import document, render
from quantize import load

KINDS = ["story", "fact", "tool call", "arithmetic", "JSON", "plain text"]


def recorded(decoder) -> list:
    """The list into which each layer's chosen experts go, [tokens, chosen], as the decoder runs."""
    routes = []

    def sparse(x, attended, o, norm, router, *rest):
        h = model.rms_norm(x + model.linear(attended, o, decoder.dtype), norm, decoder.config["rms_norm_eps"])
        routes.append(torch.nn.functional.linear(h, router).topk(decoder.config["num_experts_per_tok"], -1).indices)
        return model.sparse(x, attended, o, norm, router, *rest)

    decoder.sparse = sparse
    return routes


def hits(route: list, held: int) -> int:
    """Of the choices in order, those that a least-recently-used cache of so many experts, full at first, still holds."""
    cache, count = OrderedDict.fromkeys(range(held)), 0
    for expert in route:
        if expert in cache:
            count += 1
            cache.move_to_end(expert)
        else:
            cache.popitem(last=False)
            cache[expert] = None
    return count


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--seed", type=int, default=9)
    parser.add_argument("--documents", type=int, default=40)
    options = parser.parse_args()
    tokenizer = Tokenizer.from_file(str(options.folder / "tokenizer.json"))
    decoder = load(options.folder)
    experts, rng, routes = decoder.config["num_experts"], random.Random(options.seed), recorded(decoder)
    found, total, shares = 0, 0, [torch.zeros(experts) for _ in decoder.model.layers]
    for _ in range(options.documents):
        routes.clear()
        made = document(rng, held_out=True, kind=rng.choice(KINDS))
        decoder(torch.tensor([tokenizer.encode(render(made)).ids]))
        for layer, route in enumerate(routes):
            found += hits(route.flatten().tolist(), experts // 2)
            total += route.numel()
            shares[layer] += torch.bincount(route.flatten(), minlength=experts)
    for layer, counts in enumerate(shares):
        print(f"layer {layer}: " + " ".join(f"{share:4.0%}" for share in counts / counts.sum()))
    print(f"a cache of {experts // 2} of {experts} hits {found / total:.1%}")


if __name__ == "__main__":
    main()
