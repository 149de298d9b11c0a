"""Addition, subtraction and multiplication of small whole numbers, answered as `2 + 2 equals 4.`"""

from split import is_held_out
from words import NAMES, FEMALE, OBJECTS

PHRASINGS = [
    "What is {e}?", "What is {e}?", "What is {e}?", "what is {e}", "What's {e}?", "Calculate {e}.", "Compute {e}.",
    "How much is {e}?", "{e}", "{e} = ?", "{e}=?", "Can you tell me what {e} is?", "Please calculate {e}.",
    "What does {e} equal?", "What is the result of {e}?", "Solve {e}.", "Tell me {e}.",
]
ASKED = {
    "+": ["Add {a} and {b}.", "What is the sum of {a} and {b}?"],
    "-": ["Subtract {b} from {a}.", "What is the difference of {a} and {b}?"],
    "*": ["Multiply {a} by {b}.", "What is the product of {a} and {b}?"],
}
BARE = ["Answer with just the number.", "Answer with the number only.", "Reply with only the number.", "Just the number, please."]
SPOKEN = {"+": "plus", "-": "minus", "*": "times"}


def is_kept_out(a: int, op: str, b: int) -> bool:
    """Sums are kept out in both orders; of a product only the larger-first order, since tables are learned by heart."""
    if (a, op, b) == (2, "+", 2):
        return False
    if op == "*":
        return a > b and is_held_out("*", a, b)
    return is_held_out(op, min(a, b), max(a, b))


def result(a: int, op: str, b: int) -> int:
    return {"+": a + b, "-": a - b, "*": a * b}[op]


def problem(rng, held_out: bool, digits: int = 2):
    """Operands up to 99 (999 for three digits); products up to 12 times 12."""
    while True:
        op = rng.choice("++--*") if digits < 3 else rng.choice("+-")
        if op == "*":
            a, b = rng.randint(0, 12), rng.randint(0, 12)
        elif digits == 3:
            a, b = rng.randint(0, 999), rng.randint(0, 999)
        elif rng.random() < 0.2:
            a, b = rng.randint(0, 12), rng.randint(0, 12)
        else:
            a, b = rng.randint(0, 99), rng.randint(0, 99)
        if is_kept_out(a, op, b) == held_out:
            return a, op, b


def turn(rng, held_out: bool, digits: int = 2):
    a, op, b = problem(rng, held_out, digits)
    answer = f"{a} {op} {b} equals {result(a, op, b)}."
    style = rng.random()
    if not held_out and rng.random() < 0.06:
        return f"What is {a}{op}{b}? {rng.choice(BARE)}", str(result(a, op, b))
    if style < 0.15:
        return rng.choice(ASKED[op]).format(a=a, b=b), answer
    if style < 0.3:
        expression = f"{a} {SPOKEN[op]} {b}"
    elif style < 0.65:
        expression = f"{a}{op}{b}"
    else:
        expression = f"{a} {op} {b}"
    return rng.choice(PHRASINGS).format(e=expression), answer


def word_problem(rng, held_out: bool):
    while True:
        a, op, b = problem(rng, held_out)
        if op == "-" and a >= b or op == "+":
            break
    name, thing = rng.choice(NAMES), rng.choice(OBJECTS) + "s"
    she = "she" if name in FEMALE else "he"
    happened = f"gets {b} more" if op == "+" else f"gives {b} away"
    question = f"{name} has {a} {thing} and {happened}. How many {thing} does {she} have now?"
    return question, f"{a} {op} {b} equals {result(a, op, b)}, so {name} has {result(a, op, b)} {thing}."
