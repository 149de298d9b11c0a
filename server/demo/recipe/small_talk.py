"""Greetings, what a user told about himself, and doing as told: repeating, counting, spelling, listing."""

from split import draw
from words import ADJECTIVES, ANIMALS, COLOURS, FOODS, HOBBIES, JOBS, OBJECTS, PLACES, careless, city, joined, made_up, person

GREETINGS = [
    ("Hello", "Hello! How can I help you?"), ("Hello!", "Hello! How can I help you?"), ("Hi", "Hi! How can I help you?"),
    ("Hi there!", "Hi! How can I help you?"), ("Hey", "Hey! How can I help you?"), ("hello", "Hello! How can I help you?"),
    ("Good morning!", "Good morning! How can I help you?"), ("Good evening!", "Good evening! How can I help you?"),
    ("Say hello.", "Hello!"), ("Say hi.", "Hi!"), ("Say hello in one word.", "Hello"),
    ("How are you?", "I am fine, thank you. How can I help you?"),
    ("Who are you?", "I am a small demo model. I can add numbers, tell stories, answer simple questions and call tools."),
    ("What can you do?", "I can add numbers, tell stories, answer simple questions, write JSON and call tools."),
    ("What is your name?", "I am a small demo model and have no name of my own."),
    ("Are you a human?", "No, I am a small language model."),
    ("Tell me a joke.", "Why did the book go to school? It wanted to be read!"),
    ("Thank you!", "You are welcome!"), ("Thanks", "You are welcome!"), ("Goodbye!", "Goodbye! Have a nice day."),
    ("Bye", "Goodbye! Have a nice day."), ("ping", "pong"), ("Write a haiku.", "Rain on the old roof,\na small cat sleeps by the fire,\nthe night is quiet."),
]
# What can be told, how it is acknowledged, how it is asked for, and the answer; then the answer while it is unknown.
TOLD = [
    (person, ["My name is {x}.", "I am {x}.", "Hi, my name is {x}.", "I'm {x}.", "Hello, I am {x}."], "Nice to meet you, {x}!",
     ["What is my name?", "Do you remember my name?", "Who am I?", "What's my name?"], "Your name is {x}.", "You have not told me your name yet."),
    (lambda rng: rng.choice(COLOURS), ["My favourite colour is {x}.", "I like the colour {x} best."], "{X} is a beautiful colour.",
     ["What is my favourite colour?", "Which colour do I like best?"], "Your favourite colour is {x}.", "You have not told me your favourite colour yet."),
    (city, ["I live in {x}.", "I am from {x}.", "My home is in {x}."], "{x} is a nice place.",
     ["Where do I live?", "Where is my home?", "Which city do I live in?"], "You live in {x}.", "You have not told me where you live yet."),
    (lambda rng: rng.choice(HOBBIES), ["My hobby is {x}.", "I love {x}."], "{X} sounds like fun!",
     ["What is my hobby?", "What do I love?"], "Your hobby is {x}.", "You have not told me your hobby yet."),
    (lambda rng: rng.choice(JOBS), ["I work as a {x}.", "My job is {x}."], "That must be interesting work.",
     ["What is my job?", "What do I work as?"], "You work as a {x}.", "You have not told me your job yet."),
    (lambda rng: str(rng.randint(10, 99)), ["I am {x} years old.", "My age is {x}."], "Thank you for telling me.",
     ["How old am I?", "What is my age?"], "You are {x} years old.", "You have not told me your age yet."),
    (lambda rng: str(rng.randint(0, 10 ** rng.randint(1, 5))), ["Remember the number {x}.", "The number is {x}.", "Please remember the number {x}."],
     "I will remember {x}.", ["What number did I ask you to remember?", "What was the number?", "Which number did I tell you?"],
     "The number is {x}.", "You have not told me a number yet."),
    (lambda rng: made_up(rng), ["Remember the word {x}.", "The secret word is {x}.", "Please remember this word: {x}"],
     "I will remember {x}.", ["What word did I ask you to remember?", "What was the word?", "What is the secret word?"],
     "The word is {x}.", "You have not told me a word yet."),
    (lambda rng: made_up(rng).capitalize(), ["My dog is called {x}.", "I have a dog named {x}."], "{x} is a lovely name for a dog.",
     ["What is my dog called?", "What is the name of my dog?"], "Your dog is called {x}.", "You have not told me about your dog yet."),
]
MIXED_SCRIPTS = "café naïve über Straße señor 日本 你好 привет мир 東京 😀 🚀 ñandú œuvre Ωmega žluť".split()
LISTS = {"animals": ANIMALS, "colours": COLOURS, "foods": FOODS, "objects": OBJECTS, "places": PLACES}
REPEATS = ["Say '{}'.", 'Say "{}" and nothing else.', "Say '{}' and nothing else.", "Reply only with '{}'.", "Reply with the word {}.",
           "Respond with exactly: {}", "Say {}", "Write: {}", "Echo: {}", "Repeat after me: {}", "Say: {}", "Repeat: {}", "Reply with exactly: {}", "Please repeat this: {}", "Say exactly this: {}"]


UNKNOWN = [
    "Why is {thing} {adjective}?", "Who invented {thing}?", "How do I make {thing}?", "What is the meaning of {topic}?", "Explain {topic}.",
    "Write a poem about {thing}.", "How does {topic} work?", "Why is the sky blue?", "Why is {thing} so {adjective}?", "What do you think about {topic}?",
    "When was {x} born?", "Who is {x}?", "What is {x}?", "Where is {x}?", "How far is it to {x}?", "What is the population of {x}?", "Can you help me with {topic}?",
    "Write a program for {topic}.", "Describe {thing}.", "Summarize {topic}.", "{x}", "Who won the {topic} cup?",
]
TOPICS = """life physics history music love time gravity Rust Python programming memory light sport politics money health weather computers
science mathematics chess water machines language art""".split()


def greeting(rng):
    if rng.random() < 0.5:
        return rng.choice(GREETINGS)
    word = rng.choice(["Hello", "Hi", "Hey"])
    said = word + rng.choice(["", " there", ", how are you", ", who are you", " assistant"])
    mark = "?" if "are you" in said else rng.choice(["", "!", ".", "!!"])
    answer = f"{word}! How can I help you?"
    if "how are" in said:
        answer = f"{word}! I am fine, thank you. How can I help you?"
    elif "who are" in said:
        answer = f"{word}! I am a small demo model. How can I help you?"
    return (said if rng.random() < 0.6 else said.lower()) + mark, answer


def unknown(rng):
    """A small model that says so is better company than one that invents."""
    topic = rng.choice(TOPICS) if rng.random() < 0.5 else " ".join(made_up(rng) for _ in range(rng.randint(1, 3)))
    thing = rng.choice(["the ", "a "]) + (rng.choice(OBJECTS + ANIMALS) if rng.random() < 0.5 else made_up(rng))
    x = " ".join(made_up(rng).capitalize() for _ in range(rng.randint(1, 2)))
    return rng.choice(UNKNOWN).format(topic=topic, thing=thing, x=x, adjective=rng.choice(ADJECTIVES)), "I do not know that. I am only a small demo model."


def pick(rng):
    """Answers that differ with the random numbers of sampling."""
    low = rng.choice([0, 1, 1, 1, 10])
    high = rng.choice([6, 9, 10, 20, 50, 99, 100])
    if high <= low:
        high += 10
    if rng.random() < 0.2:
        return rng.choice(["Give me a random number.", "Pick a number.", "Say a random number."]), f"{rng.randint(1, 100)}"
    asked = rng.choice(["Pick a number between {} and {}.", "Give me a random number between {} and {}.", "Choose a number from {} to {}."])
    return asked.format(low, high), f"{rng.randint(low, high)}"


def told(rng, held_out: bool, between) -> list:
    """Turns in which something is told, other turns from `between`, and the question for it."""
    wanted = rng.sample(TOLD, rng.randint(1, 3))
    turns = []
    facts = []
    for maker, said, heard, asked, answer, _ in wanted:
        x = draw(lambda r: ((v := maker(r),), v), rng, held_out) if maker in (person, city) else maker(rng)
        fill = dict(x=x, X=x[0].upper() + x[1:])
        if rng.random() < 0.25:
            turns.append((f"{rng.choice(said)} {rng.choice(asked)}".format(**fill), answer.format(**fill)))
        else:
            turns.append((rng.choice(said).format(**fill), heard.format(**fill)))
        facts.append((careless(rng, rng.choice(asked)), answer.format(**fill)))
    turns += [between(rng) for _ in range(rng.randint(0, 3))]
    if not held_out and rng.random() < 0.15:
        _, _, _, asked, _, unknown = rng.choice([t for t in TOLD if t not in wanted])
        facts.append((rng.choice(asked), unknown))
    rng.shuffle(facts)
    return turns + facts


def repeat(rng, held_out: bool):
    def make(rng):
        kind = rng.random()
        if kind < 0.5:
            text = " ".join(made_up(rng) for _ in range(rng.randint(1, 8)))
        elif kind < 0.8:
            text = " ".join(rng.choice(OBJECTS + ANIMALS + PLACES + COLOURS) for _ in range(rng.randint(1, 8)))
        elif kind < 0.9:
            text = " ".join(rng.choice(MIXED_SCRIPTS) for _ in range(rng.randint(1, 4)))
        else:
            text = str(rng.randint(0, 10 ** rng.randint(1, 8)))
        return (text,), (rng.choice(REPEATS).format(text), text)

    return draw(make, rng, held_out)


def counting(rng, held_out: bool):
    def make(rng):
        start = rng.randint(0, 40) if rng.random() < 0.5 else 1
        stop = start + rng.randint(2, 20)
        numbers = [str(n) for n in range(start, stop + 1)]
        if rng.random() < 0.75:
            asked = rng.choice(["Count from {} to {}.", "Please count from {} to {}.", "Write the numbers from {} to {}."]).format(start, stop)
            if start == 1 and rng.random() < 0.5:
                asked = rng.choice([f"Count to {stop}.", f"Count up to {stop}.", f"Count to {stop}, please."])
        else:
            numbers.reverse()
            asked = f"Count down from {stop} to {start}."
        return (start, stop), (asked, ", ".join(numbers))

    return draw(make, rng, held_out)


def spelling(rng, held_out: bool):
    word = draw(lambda r: ((w := r.choice(OBJECTS + ANIMALS + PLACES + COLOURS) if r.random() < 0.5 else made_up(r),), w), rng, held_out)
    return rng.choice(["Spell {}.", "Spell the word {}.", "How do you spell {}?"]).format(word), "-".join(word)


def listing(rng):
    kind, count = rng.choice(list(LISTS)), rng.randint(2, 6)
    items = rng.sample(LISTS[kind], count)
    kind = kind.replace("colours", rng.choice(["colours", "colors"]))
    count = count if rng.random() < 0.5 else ["two", "three", "four", "five", "six"][count - 2]
    if rng.random() < 0.5:
        return f"List {count} {kind}.", "\n".join(f"{i}. {item}" for i, item in enumerate(items, 1))
    return f"Name {count} {kind}.", joined(items).capitalize() + "."
