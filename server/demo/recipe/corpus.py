"""Mixes the parts of the corpus into documents, renders them with the chat template and packs them into rows."""

import json
import pathlib
import random
from dataclasses import dataclass, field

import numpy as np
from jinja2 import Environment
from tokenizers import Tokenizer

import arithmetic
import facts
import json_answers
import passkey
import small_talk
import stories
import tool_calls
from words import careless

TEMPLATE = pathlib.Path(__file__).parent / "chat_template.jinja"
SYSTEMS = [
    "You are a helpful assistant.", "You are a helpful assistant.", "You are a helpful AI assistant.", "Answer briefly.",
    "You are a friendly assistant.", "Be brief and exact.",
]
CHARACTERS_PER_TOKEN = 4.0
# The loss weight of an answer's tokens is 1, of all others this: they carry little that can be learned.
CONTEXT_WEIGHT = 0.15


@dataclass
class Document:
    """A conversation, or a plain text when it has no messages."""

    kind: str
    messages: list = field(default_factory=list)
    tools: list | None = None
    text: str | None = None


def _environment():
    environment = Environment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    return environment.from_string(TEMPLATE.read_text())


_template = _environment()


def render(document: Document, add_generation_prompt: bool = False) -> str:
    if document.text is not None:
        return document.text
    return _template.render(
        messages=document.messages, tools=document.tools, add_generation_prompt=add_generation_prompt
    )


def _short_turn(rng):
    """A single question of any kind, to stand between others."""
    return rng.choice([
        lambda: arithmetic.turn(rng, False), lambda: facts.turn(rng, False), lambda: small_talk.greeting(rng),
        lambda: facts.check(rng), lambda: arithmetic.turn(rng, False), lambda: small_talk.unknown(rng),
    ])()


def _turns(rng, held_out: bool, kind: str) -> list:
    make = {
        "arithmetic": lambda: [arithmetic.turn(rng, held_out)],
        "arithmetic of three digits": lambda: [arithmetic.turn(rng, held_out, digits=3)],
        "word problem": lambda: [arithmetic.word_problem(rng, held_out)],
        "fact": lambda: [facts.turn(rng, held_out)],
        "check of a fact": lambda: [facts.check(rng)],
        "story": lambda: [stories.turn(rng)],
        "question about a story": lambda: [stories.question(rng)],
        "JSON": lambda: [json_answers.turn(rng, held_out)],
        "greeting": lambda: [small_talk.greeting(rng)],
        "told": lambda: small_talk.told(rng, held_out, _short_turn),
        "repeat": lambda: [small_talk.repeat(rng, held_out)],
        "counting": lambda: [small_talk.counting(rng, held_out)],
        "spelling": lambda: [small_talk.spelling(rng, held_out)],
        "list": lambda: [small_talk.listing(rng)],
        "long story": lambda: [stories.long_turn(rng)],
        "unknown": lambda: [small_talk.unknown(rng)],
        "pick": lambda: [small_talk.pick(rng)],
    }[kind]
    turns = make()
    # Later turns of a conversation are mostly of the same kind; held-out ones stay alone.
    while not held_out and rng.random() < 0.3 and len(turns) < 8:
        turns += make() if rng.random() < 0.5 else [_short_turn(rng)]
    if kind in ("arithmetic", "fact", "check of a fact", "greeting", "unknown") and not held_out:
        turns = [(careless(rng, asked), answer) for asked, answer in turns]
    return turns


SHARES = {
    "arithmetic": 24, "arithmetic of three digits": 8, "word problem": 4, "fact": 13, "check of a fact": 2, "story": 6,
    "question about a story": 5, "JSON": 10, "greeting": 4, "told": 8, "repeat": 6, "counting": 3, "spelling": 2, "list": 2,
    "long story": 1, "unknown": 4, "pick": 1,
    "tool call": 14, "plain text": 3, "passkey": 8,
}
_KINDS, _WEIGHTS = list(SHARES), list(SHARES.values())


def document(rng, held_out: bool = False, kind: str | None = None, characters: int | None = None) -> Document:
    kind = kind or rng.choices(_KINDS, _WEIGHTS)[0]
    if kind == "plain text":
        return Document(kind, text="\n\n".join(stories.text(rng) for _ in range(rng.randint(1, 3))))
    if kind == "tool call":
        messages, tools = tool_calls.conversation(rng, held_out, _short_turn)
    else:
        if kind == "passkey":
            turns = [passkey.turn(rng, held_out, characters if characters is not None else rng.randint(0, 2000))]
        else:
            turns = _turns(rng, held_out, kind)
        messages, tools = [], None
        for asked, answer in turns:
            messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
        if not held_out and rng.random() < 0.06 and len(turns[-1][0]) < 200:
            messages[-1]["reasoning_content"] = f'The user says "{turns[-1][0]}". I answer that.'
    if rng.random() < 0.3:
        messages = [{"role": "system", "content": rng.choice(SYSTEMS)}] + messages
    return Document(kind, messages, tools)


def sample_texts(seed: int, count: int):
    rng = random.Random(seed)
    return (render(document(rng)) for _ in range(count))


class Packer:
    """Fills rows of a fixed length with documents, each closed by the end-of-text token."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        self.end_of_text, self.start, self.end = map(tokenizer.token_to_id, ("<|endoftext|>", "<|im_start|>", "<|im_end|>"))
        self.think = tokenizer.token_to_id("<think>")
        self.assistant = tokenizer.encode("<|im_start|>assistant").ids[1]

    def weights(self, ids: np.ndarray) -> np.ndarray:
        """1 on what the assistant says, its end included; the weight stands at the position of the predicted token."""
        starts, ends = np.flatnonzero(ids == self.start), np.flatnonzero(ids == self.end)
        weights = np.full(len(ids), CONTEXT_WEIGHT, np.float32)
        for start in starts[ids[np.minimum(starts + 1, len(ids) - 1)] == self.assistant]:
            after = ends[ends > start]
            weights[start + 3 : (after[0] + 1 if len(after) else len(ids))] = 1
        # Thinking is opened by the template alone, on request.
        weights[ids == self.think] = 0
        return weights

    def rows(self, rng, count: int, length: int) -> tuple:
        """Token ids of shape [count, length + 1] and the weights of the last `length` of each row."""
        documents = [[] for _ in range(count)]
        pending = list(range(count))
        while pending:
            texts, owners = [], []
            for row in pending:
                missing = length + 1 - sum(map(len, documents[row]))
                # A long row exists for its long recall, which therefore comes first; short ones fill what is left.
                if not documents[row] and length > 1024 or not documents[row] and rng.random() < 0.15:
                    budget = int(rng.uniform(0.3, 0.97) * (missing - 64) * CHARACTERS_PER_TOKEN)
                    texts.append(render(document(rng, kind="passkey", characters=budget)))
                    owners.append(row)
                    continue
                while missing > 0:
                    texts.append(render(document(rng)))
                    owners.append(row)
                    missing -= int(len(texts[-1]) / CHARACTERS_PER_TOKEN) + 1
            for row, encoded in zip(owners, self.tokenizer.encode_batch_fast(texts)):
                if len(encoded) <= length or documents[row]:
                    documents[row].append(np.array(encoded.ids + [self.end_of_text], np.int32))
            pending = [row for row in pending if sum(map(len, documents[row])) < length + 1]
        ids = np.stack([np.concatenate(parts)[: length + 1] for parts in documents])
        return ids, np.stack([self.weights(row)[1:] for row in ids])
