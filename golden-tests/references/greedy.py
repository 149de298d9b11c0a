"""What is recorded of a model: prompt logits, greedy text and how safe the text is from rounding."""

import numpy as np

from rows import GREEDY, MIN_MARGIN, PROMPT, VOCAB

MIN_ROUTER_GAP = 2e-4


def prompt_ids(seed):
    """Random tokens without the special ids 0 to 2."""
    return np.random.default_rng([seed, 1]).integers(3, VOCAB, PROMPT).astype(np.int32)


def record(forward, seed):
    """Runs `forward(ids) -> logits[len, vocab]` without any cache: prompt logits, then argmax decoding."""
    prompt = prompt_ids(seed)
    logits = forward(prompt)
    ids, last, margins, text = prompt, logits[-1], [], []
    for _ in range(GREEDY):
        low, high = np.sort(last)[-2:]
        margins.append(high - low)
        text.append(int(last.argmax()))
        ids = np.append(ids, np.int32(text[-1]))
        last = forward(ids)[-1]
    return {
        "prompt": prompt,
        "logits": np.ascontiguousarray(logits, dtype=np.float32),
        "greedy": np.array(text, dtype=np.int32),
        "margin": np.array([min(margins)], dtype=np.float32),
    }


def refusal(reference, router_gap, least_gap=MIN_ROUTER_GAP):
    """Why this seed will not do, or None."""
    if reference["margin"][0] < MIN_MARGIN:
        return f"margin {reference['margin'][0]:.4f}"
    if np.isin(reference["greedy"], [0, 1, 2]).any():
        return "special token in the greedy text"
    if len(set(reference["greedy"].tolist())) < 12:
        return "greedy text repeats itself"
    if router_gap is not None and router_gap < least_gap:
        return f"router gap {router_gap:.1e}"
    return None


def relative_difference(logits, reference):
    """Largest difference over the standard deviation of the reference's logits."""
    return float(np.abs(logits - reference).max() / reference.std())
