"""A five-digit key hidden somewhere in a long text and asked for at its end."""

import facts
import stories
from split import draw
from words import COLOURS, NAMES, OBJECTS

NEEDLES = [
    ("The passkey is {x}.", "What is the passkey?", "The passkey is {x}."),
    ("The passkey is {x}. Remember it.", "What is the passkey?", "The passkey is {x}."),
    ("The pass key is {x}. Remember it. {x} is the pass key.", "What is the pass key?", "The pass key is {x}."),
    ("The secret code is {x}.", "What is the secret code?", "The secret code is {x}."),
    ("The magic number is {x}.", "What is the magic number?", "The magic number is {x}."),
]
INTRODUCTIONS = [
    "", "", "There is a passkey hidden in the text below. Find it and remember it.\n\n",
    "Read this text.\n\n", "There is an important info hidden inside a lot of irrelevant text. Find it and memorize it.\n\n",
]
NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.".split(". ")


def key(rng, held_out: bool) -> str:
    return draw(lambda r: ((k := str(r.randint(10000, 99999)),), k), rng, held_out)


def filler(rng, characters: int) -> list:
    """Sentences of about so many characters in all; never of five digits."""
    lines, length = [], 0
    kind = rng.random()
    while length < characters:
        if kind < 0.15:
            new = [line.rstrip(".") + "." for line in NOISE]
        elif kind < 0.3:
            new = [facts.statement(rng)]
        elif kind < 0.5 and rng.random() < 0.3:
            new = [f"{rng.choice(NAMES)} has {rng.randint(2, 99)} {rng.choice(OBJECTS)}s."]
        else:
            new = stories.sentences(rng, stories.cast(rng))
        lines += new
        length += sum(len(line) + 1 for line in new)
    return lines


def turn(rng, held_out: bool, characters: int, style: str | None = None):
    """One question: `plain` hides a single key in one wording, `several` hides some and asks for one; else any."""
    lines = filler(rng, characters)
    style = style or rng.choices(["plain", "worded", "several"], [20, 50, 30])[0]
    if style != "several":
        needle, asked, answer = NEEDLES[0] if style == "plain" else rng.choice(NEEDLES)
        x = key(rng, held_out)
        lines.insert(rng.randint(0, len(lines)), needle.format(x=x))
        answer = answer.format(x=x)
    else:
        boxes = [(f"{c} {o}", key(rng, held_out)) for c, o in zip(rng.sample(COLOURS, 4), rng.sample(OBJECTS, 4))]
        boxes = boxes[: rng.randint(2, 4)]
        for what, x in boxes:
            lines.insert(rng.randint(0, len(lines)), f"The code of the {what} is {x}.")
        what, x = rng.choice(boxes)
        asked, answer = f"What is the code of the {what}?", f"The code of the {what} is {x}."
    introduction = "" if style == "plain" else rng.choice(INTRODUCTIONS)
    return f"{introduction}{' '.join(lines)}\n\n{asked}", answer
