"""Conversations with tools in the system turn: which to call, with which arguments, and what to say after its reply."""

import json

from arithmetic import SPOKEN, is_kept_out, problem, result
from split import draw
from words import FOODS, HOBBIES, OBJECTS, city, made_up, person

CURRENCIES = "euros dollars pounds yen francs".split()
LANGUAGES = "French German Spanish Italian Japanese Dutch".split()
UNITS = ["celsius", "fahrenheit"]
TIMES = [f"{h:02}:{m:02}" for h in range(24) for m in (0, 15, 30, 45)]
TOPICS = OBJECTS + FOODS + HOBBIES


class Tool:
    """One kind of tool: its possible names, its parameters with their possible names, and a maker of calls.

    The maker returns the request, the arguments in the order of the parameters, the reply and the closing sentence.
    """

    def __init__(self, names, about, parameters, make):
        self.names, self.about, self.parameters, self.make = names.split(), about, parameters, make


def _weather(rng):
    x, degrees, sky = city(rng), rng.randint(-20, 40), rng.choice(["clear", "cloudy", "rainy", "snowy"])
    asked = rng.choice(["What is the weather in {}?", "What's the weather like in {}?", "How is the weather in {} today?",
                        "Tell me the weather in {}.", "Is it raining in {}?", "weather in {}?", "What is the weather in {} right now?"]).format(x)
    return asked, [x], {"temperature": degrees, "sky": sky}, f"It is {degrees} degrees and {sky} in {x}."


def _weather_unit(rng):
    asked, (x,), reply, said = _weather(rng)
    unit = rng.choice(UNITS)
    return f"{asked} Use {unit}.", [x, unit], reply, said


def _time(rng):
    x, now = city(rng), rng.choice(TIMES)
    asked = rng.choice(["What time is it in {}?", "Tell me the time in {}.", "What is the current time in {}?"]).format(x)
    return asked, [x], {"time": now}, f"It is {now} in {x}."


def _trained_sum(make) -> tuple:
    """Tool results are read in training too, so none of them may give away a problem that is kept out."""
    while True:
        a, op, b = make()
        if not is_kept_out(a, op, b):
            return a, op, b


def _calculator(rng):
    def make():
        a, op, b = problem(rng, held_out=False)
        return (a * rng.randint(1, 90), op, b * rng.randint(1, 90)) if rng.random() < 0.5 else (a, op, b)

    a, op, b = _trained_sum(make)
    spoken = f"{a} {SPOKEN[op]} {b}" if rng.random() < 0.3 else f"{a} {op} {b}"
    asked = rng.choice(["What is {}?", "Calculate {}.", "Compute {} with the tool.", "Please calculate {}."]).format(spoken)
    return asked, [f"{a} {op} {b}"], {"result": result(a, op, b)}, f"{a} {op} {b} equals {result(a, op, b)}."


def _add(rng):
    a, _, b = _trained_sum(lambda: (rng.randint(0, 999), "+", rng.randint(0, 999)))
    asked = rng.choice(["Add {} and {}.", "What is {} plus {}?", "Add {} and {} with the tool.", "What is the sum of {} and {}?"]).format(a, b)
    return asked, [a, b], {"result": a + b}, f"The result is {a + b}."


def _search(rng):
    x = rng.choice(TOPICS) if rng.random() < 0.6 else " ".join(made_up(rng) for _ in range(rng.randint(1, 3)))
    hits = rng.randint(1, 50)
    asked = rng.choice(["Search for {}.", "Look up {}.", "Find pages about {}.", "Please search the web for {}."]).format(x)
    return asked, [x], {"hits": hits}, f"I found {hits} results for {x}."


def _mail(rng):
    who, subject = person(rng), rng.choice(TOPICS)
    asked = rng.choice(["Send an email to {} about {}.", "Write to {} about {}.", "Email {} about {}."]).format(who, subject)
    return asked, [who, subject], {"status": "sent"}, f"I sent the email to {who}."


def _alarm(rng):
    at = rng.choice(TIMES)
    asked = rng.choice(["Set an alarm for {}.", "Wake me up at {}.", "Please set the alarm to {}."]).format(at)
    return asked, [at], {"status": "ok"}, f"The alarm is set for {at}."


def _translate(rng):
    text, language = rng.choice(TOPICS), rng.choice(LANGUAGES)
    word = made_up(rng)
    asked = rng.choice(["Translate {} to {}.", "How do you say {} in {}?", "Translate the word {} into {}."]).format(text, language)
    return asked, [text, language], {"translation": word}, f"In {language}, {text} is {word}."


def _convert(rng):
    amount, (source, target), value = rng.randint(1, 999), rng.sample(CURRENCIES, 2), rng.randint(1, 999)
    asked = rng.choice(["Convert {} {} to {}.", "How much is {} {} in {}?", "Change {} {} into {}."]).format(amount, source, target)
    return asked, [amount, source, target], {"amount": value}, f"{amount} {source} are {value} {target}."


_TEXT, _NUMBER = {"type": "string"}, {"type": "integer"}
TOOLS = [
    Tool("get_weather get_weather weather get_current_weather fetch_weather", "Get the current weather for a city.",
         [("city city location place", _TEXT)], _weather),
    Tool("get_weather get_current_weather weather_report", "Get the weather in a given unit.",
         [("city location", _TEXT), ("unit", {"type": "string", "enum": UNITS})], _weather_unit),
    Tool("get_time current_time clock", "Get the current time in a city.", [("city location timezone", _TEXT)], _time),
    Tool("calculator calculate evaluate", "Evaluate an arithmetic expression.", [("expression formula", _TEXT)], _calculator),
    Tool("add add_numbers sum", "Add two numbers.", [("a x first", _NUMBER), ("b y second", _NUMBER)], _add),
    Tool("search web_search search_web", "Search the web.", [("query text q", _TEXT)], _search),
    Tool("send_email send_mail email", "Send an email.", [("to recipient", _TEXT), ("subject title", _TEXT)], _mail),
    Tool("set_alarm alarm", "Set an alarm.", [("time at", _TEXT)], _alarm),
    Tool("translate translate_text", "Translate a text.", [("text word", _TEXT), ("language target", _TEXT)], _translate),
    Tool("convert_currency exchange", "Convert an amount of money.",
         [("amount value", {"type": "number"}), ("from source", _TEXT), ("to target", _TEXT)], _convert),
]
VERBS = "get find read check fetch measure".split()


def _invented(rng) -> Tool:
    """A tool with a name no list holds: calling it must be learned from its declaration alone."""
    noun, verb = made_up(rng), rng.choice(VERBS)

    def make(rng):
        x, value = made_up(rng).capitalize(), rng.randint(0, 99)
        asked = f"{verb.capitalize()} the {noun} of {x}."
        return asked, [x], {noun: value}, f"The {noun} of {x} is {value}."

    return Tool(f"{verb}_{noun}", f"{verb.capitalize()} the {noun} of a thing.", [(rng.choice(["name", "thing", "id", noun]), _TEXT)], make)


def _declared(rng, tool: Tool):
    """Fixes the names of one tool and writes its declaration."""
    name, names = rng.choice(tool.names), []
    properties = {}
    for options, schema in tool.parameters:
        names.append(rng.choice([o for o in options.split() if o not in names]))
        properties[names[-1]] = dict(schema) if rng.random() < 0.5 else {**schema, "description": "The " + names[-1] + "."}
    schema = {"type": "object", "properties": properties, "required": list(names)}
    if rng.random() < 0.2:
        schema["additionalProperties"] = False
    if rng.random() < 0.2:
        schema.pop("required")
    function = {"name": name, "description": tool.about, "parameters": schema}
    # Clients and servers order, sort or drop these keys differently.
    if rng.random() < 0.3:
        function = {key: function[key] for key in sorted(function)}
    if rng.random() < 0.15:
        function.pop("description")
    declaration = {"type": "function", "function": function}
    if rng.random() < 0.3:
        declaration = {"function": function, "type": "function"}
    return name, names, declaration


def _said(call) -> dict:
    return {"type": "function", "function": {"name": call[0], "arguments": call[1]}}


def conversation(rng, held_out: bool, other_turn):
    """Messages and tools; `other_turn` gives a question that needs no tool."""
    wanted = _invented(rng) if rng.random() < 0.25 else rng.choice(TOOLS)
    offered = [wanted] + [t for t in rng.sample(TOOLS, rng.randint(0, 3)) if t is not wanted]
    rng.shuffle(offered)
    taken, tools = set(), []
    for tool in offered:
        name, names, declaration = _declared(rng, tool)
        if tool is wanted:
            wanted_name, wanted_names = name, names
        if name in taken:
            return conversation(rng, held_out, other_turn)
        taken.add(name)
        tools.append(declaration)

    def call(rng):
        asked, values, reply, said = wanted.make(rng)
        return (wanted_name, json.dumps(values)), (asked, (wanted_name, dict(zip(wanted_names, values))), reply, said)

    messages = []
    if rng.random() < 0.5:
        asked, answer = other_turn(rng)
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
        if rng.random() < 0.3 and not held_out:
            return messages, tools
        if rng.random() < 0.5:
            messages = []
    calls = [draw(call, rng, held_out)]
    asked = calls[0][0]
    if wanted.make is _weather and rng.random() < 0.25:
        calls.append(draw(call, rng, held_out))
        first, second = ([*c[1][1].values()][0] for c in calls)
        asked = rng.choice(["What is the weather in {} and {}?", "Compare the weather in {} and {}."]).format(first, second)
    messages.append({"role": "user", "content": asked})
    messages.append({"role": "assistant", "content": "", "tool_calls": [_said(c[1]) for c in calls]})
    if rng.random() < 0.6:
        for _, _, reply, said in calls:
            text = json.dumps(reply, ensure_ascii=False)
            messages.append({"role": "tool", "content": text})
        messages.append({"role": "assistant", "content": " ".join(c[3] for c in calls)})
        if rng.random() < 0.3 and len(calls) == 1:
            asked, again, *_ = draw(call, rng, held_out)
            messages.append({"role": "user", "content": asked})
            messages.append({"role": "assistant", "content": "", "tool_calls": [_said(again)]})
    return messages, tools
