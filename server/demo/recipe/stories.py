"""Short stories from a small grammar, and questions about them."""

from words import ADJECTIVES, ANIMALS, COLOURS, FEMALE, FOODS, NAMES, OBJECTS, PLACES, article, made_up

OPENINGS = [
    "Once upon a time there was {an_adj} {animal} named {name}.",
    "{name} was {an_adj} {animal} who lived near the {place}.",
    "Long ago, {an_adj} {animal} called {name} lived by the {place}.",
    "There was once {an_adj} {animal}. Everyone called {them} {name}.",
]
FINDS = [
    "One morning {name} went to the {place} and found {a_colour} {object}.",
    "One day {they} walked to the {place} and saw {a_colour} {object} on the ground.",
    "After breakfast {name} ran to the {place}, where {a_colour} {object} was lying.",
    "While {they} was walking in the {place}, {name} found {a_colour} {object}.",
]
MEETS = [
    "Then {friend} the {other} came along.",
    "Soon {name} met {friend}, {an_adj2} {other}.",
    "On the way home {they} met {friend} the {other}.",
]
TALKS = [
    '"Is this your {object}?" asked {name}.',
    '"Look at this {colour} {object}!" said {name}.',
    '"Where did you find that {object}?" asked {friend}.',
    '"May I see the {object}?" {friend} asked.',
]
REPLIES = [
    '"Yes, I lost it last night," said {friend}.',
    '"No, but I know who lost it," said {friend}.',
    '"It belongs to my grandmother," {friend} answered.',
    '"I have looked for it all day," said {friend}.',
]
TURNS = [
    "{name} gave the {object} back and {friend} smiled.",
    "So they took the {object} to the {place2} together.",
    "It began to rain, so they ran to the {place2}.",
    "The {object} was heavy, but they carried it to the {place2}.",
    "They were hungry, so they shared some {food} in the {place2}.",
    "A strong wind took the {object}, and they chased it to the {place2}.",
    "{friend} was afraid of the dark, but {name} was not.",
]
ENDINGS = [
    "From that day on, {name} and {friend} were best friends.",
    "In the evening they ate {food} and laughed.",
    "{name} went home happy and slept well.",
    "And so they lived happily ever after.",
    "That night {name} dreamed of the {colour} {object}.",
    "They promised to meet in the {place} again.",
]
ASKED = [
    "Tell me a story about {a_animal}.", "Write a short story about {a_animal}.", "Tell me a short story.",
    "Can you tell me a story about {a_animal} named {name}?", "Write a story about {name} and {friend}.",
    "Tell me a story about {a_colour} {object}.", "Please write a short story about {a_animal} and {a_other}.", "Write a story about {a_animal}.", "Tell me a story.",
    "I would like to hear a story.", "Write a story in which {name} finds {a_colour} {object}.",
]


def cast(rng) -> dict:
    """Who and what one story is about."""
    name, friend = rng.sample(NAMES, 2)
    animal, other = rng.sample(ANIMALS, 2)
    if rng.random() < 0.1:
        animal = made_up(rng)
    place, place2 = rng.sample(PLACES, 2)
    colour, thing, food = rng.choice(COLOURS), rng.choice(OBJECTS), rng.choice(FOODS)
    adjective, adjective2 = rng.choice(ADJECTIVES), rng.choice(ADJECTIVES)
    she = name in FEMALE
    return dict(
        name=name, friend=friend, animal=animal, other=other, place=place, place2=place2, colour=colour, object=thing,
        food=food, an_adj=article(adjective), an_adj2=article(adjective2), a_colour=article(colour),
        a_animal=article(animal), a_other=article(other), they="she" if she else "he", them="her" if she else "him",
    )


def sentences(rng, who: dict, length: int | None = None) -> list:
    plan = [rng.choice(OPENINGS), rng.choice(FINDS), rng.choice(MEETS), rng.choice(TALKS), rng.choice(REPLIES)]
    plan += rng.sample(TURNS, length if length is not None else rng.randint(1, 3)) + [rng.choice(ENDINGS)]
    filled = (line.format(**who) for line in plan)
    return [line[0].upper() + line[1:] for line in filled]


def text(rng) -> str:
    return " ".join(sentences(rng, cast(rng)))


def turn(rng):
    who = cast(rng)
    return rng.choice(ASKED).format(**who), " ".join(sentences(rng, who))


def long_turn(rng):
    """Several chapters about the same two, for answers of some hundred tokens."""
    who = cast(rng)
    asked = rng.choice(["Tell me a long story about {a_animal}.", "Write a long story about {name}.", "Write a long story.",
                        "Write a very long story about {a_animal}.", "Tell me a long story."]).format(**who)
    chapters = [" ".join(sentences(rng, who))]
    for _ in range(rng.randint(2, 6)):
        place, place2 = rng.sample(PLACES, 2)
        colour, thing = rng.choice(COLOURS), rng.choice(OBJECTS)
        who.update(place=place, place2=place2, colour=colour, object=thing, a_colour=article(colour), food=rng.choice(FOODS))
        chapters.append(" ".join(sentences(rng, who)[1:]))
    return asked, "\n\n".join(chapters)


def question(rng):
    """A story with one question whose answer stands in it."""
    who = cast(rng)
    # Every opening names the animal and every find the thing, its colour and the place.
    asked, answer = rng.choice([
        ("What did {name} find?", "{name} found {a_colour} {object}."),
        ("Where was the {object}?", "The {object} was in the {place}."),
        ("What colour was the {object}?", "The {object} was {colour}."),
        ("Who was {friend}?", "{friend} was {a_other}."),
        ("What kind of animal was {name}?", "{name} was {a_animal}."),
    ])
    story = " ".join(sentences(rng, who))
    return f"{story}\n\n{asked.format(**who)}", answer.format(**who)
