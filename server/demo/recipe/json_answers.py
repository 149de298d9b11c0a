"""Questions whose answer is one JSON object or array with the wanted keys."""

import json

from arithmetic import problem, result
from facts import CAPITALS
from split import draw
from words import CITIES, COLOURS, FOODS, JOBS, OBJECTS, city, person

ASKED = ["Answer in JSON: {}", "{} Answer in JSON.", "{} Reply with a JSON object.", "{} Give the answer as JSON."]


def _profile(rng):
    full = {"name": person(rng), "age": rng.randint(10, 99), "city": city(rng), "job": rng.choice(JOBS), "colour": rng.choice(COLOURS)}
    # The sentence always tells all five, so that the wanted keys have to be read from the question.
    text = rng.choice([
        "{name} is {age} years old, works as a {job}, lives in {city} and likes the colour {colour}.",
        "{name}, a {age} year old {job} from {city}, loves {colour}.",
        "In {city} lives {name}, who is {age}, a {job}, and likes {colour} best.",
        "{name} is {age} and lives in {city}. {name} is a {job} and likes {colour}.", "{name}, {age}, {city}, {job}, {colour}.",
    ]).format(**full)
    keys = rng.sample(list(full), rng.randint(1, 5))
    listed = ", ".join(keys[:-1]) + " and " + keys[-1] if len(keys) > 1 else keys[0]
    asked = rng.choice(["Give {} as JSON.", "Extract {} as a JSON object.", "Answer in JSON with the keys {}.", "Write JSON with {}.", "Return a JSON object with {}.", "Reply with a JSON object that has {}."]).format(listed)
    text = f"{text} {asked}" if rng.random() < 0.7 else f"{asked}\n{text}"
    return (full["name"], full["city"]), (text, {key: full[key] for key in keys})


def _capital(rng):
    country = rng.choice(list(CAPITALS))
    question = rng.choice(["What is the capital of {}?", "Name the capital of {}.", "Tell me about {}."]).format(country)
    asked = rng.choice(ASKED)
    return (country, question, asked), (asked.format(question), {"country": country, "capital": CAPITALS[country]})


def _sum(rng, held_out):
    a, op, b = problem(rng, held_out)
    question = rng.choice([f"What is {a}{op}{b}?", f"What is {a} {op} {b}?", f"Calculate {a} {op} {b}."])
    return rng.choice(ASKED).format(question), {"a": a, "b": b, "result": result(a, op, b)}


def _order(rng):
    items = [{"item": item, "count": rng.randint(1, 20)} for item in rng.sample(OBJECTS + FOODS, rng.randint(1, 3))]
    text = ", ".join(f"{i['count']} {i['item']}" for i in items)
    return (text,), (f"I want to order {text}. Write the order as a JSON list.", items)


def _weather(rng):
    value = {"city": rng.choice(CITIES), "temperature": rng.randint(-20, 40), "sky": rng.choice(["clear", "cloudy", "rainy", "snowy"])}
    text = f"It is {value['temperature']} degrees and {value['sky']} in {value['city']}."
    return (text,), (f"{text} Write this as JSON with city, temperature and sky.", value)


def turn(rng, held_out: bool):
    kind = rng.random()
    if kind < 0.45:
        asked, value = draw(_profile, rng, held_out)
    elif kind < 0.6:
        asked, value = draw(_capital, rng, held_out)
    elif kind < 0.75:
        asked, value = _sum(rng, held_out)
    elif kind < 0.88:
        asked, value = draw(_order, rng, held_out)
    else:
        asked, value = draw(_weather, rng, held_out)
    return asked, json.dumps(value, ensure_ascii=False)
