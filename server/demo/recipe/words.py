"""Word lists and made-up names that every part of the corpus draws from."""

NAMES = """Anna Ben Clara David Emma Felix Grace Hugo Iris Jack Kate Leo Mia Noah Olga Paul Quinn Rosa Sam Tina
Umar Vera Will Xenia Yara Zoe Alice Bob Carol Dan Eva Frank Gina Harry Ida John Karl Lucy Mary Nina Oscar Peter
Ruth Sara Tom Ursula Victor Wendy Max Lily Omar Priya Wei Yuki Diego Aisha""".split()
FEMALE = set("""Anna Clara Emma Grace Iris Kate Mia Olga Rosa Tina Vera Xenia Yara Zoe Alice Carol Eva Gina Ida Lucy
Mary Nina Ruth Sara Ursula Wendy Lily Priya Yuki Aisha""".split())
ANIMALS = """cat dog fox bear owl mouse rabbit horse cow duck frog wolf goat sheep lion tiger hen pig bird
squirrel hedgehog turtle fish snake dragon robot monkey elephant penguin whale giraffe crow deer bee unicorn knight wizard
pirate princess""".split()
COLOURS = "red blue green yellow white black brown pink purple grey golden silver".split()
OBJECTS = """key ball book lamp hat box bell coin map cup shoe kite drum ring letter basket bottle
candle mirror stone feather flute spoon blanket umbrella""".split()
PLACES = """garden forest kitchen river hill barn beach market library school village castle cave meadow bridge
mountain lake attic harbour park""".split()
FOODS = "apples bread cheese soup cake honey pears nuts rice carrots pancakes berries plums eggs cookies".split()
ADJECTIVES = "small big old young kind brave quiet happy clever lazy hungry tired shy gentle curious proud".split()
CITIES = """Paris London Berlin Madrid Rome Vienna Oslo Stockholm Lisbon Dublin Athens Warsaw Prague Budapest Tokyo
Beijing Cairo Nairobi Lima Ottawa Boston Chicago Sydney Mumbai Seoul Geneva Hamburg Munich Milan Porto Toronto Denver
Dallas Kyoto Zurich Helsinki""".split() + [
    "New York", "San Francisco", "Los Angeles", "Hong Kong", "Cape Town", "New Delhi", "Buenos Aires", "Mexico City",
    "Rio de Janeiro", "San Francisco, CA", "Paris, France", "Boston, MA",
]
JOBS = "teacher doctor baker farmer pilot nurse painter singer driver writer cook engineer gardener".split()
HOBBIES = "reading painting swimming running cooking singing dancing chess fishing football hiking drawing".split()

_ONSETS = "b c d f g h j k l m n p r s t v w z br ch cl dr fl gr kr pl sh st th tr".split()
_VOWELS = "a e i o u ai ea ee ia oo ou".split()
_CODAS = ["", "", "", "n", "r", "l", "s", "t", "m", "k", "nd", "rt", "x"]


def made_up(rng) -> str:
    """A word that no list holds, so that copying it must be learned as copying."""
    return "".join(rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS) for _ in range(rng.randint(1, 3)))


def person(rng) -> str:
    return rng.choice(NAMES) if rng.random() < 0.7 else made_up(rng).capitalize()


def city(rng) -> str:
    if rng.random() < 0.65:
        return rng.choice(CITIES)
    return " ".join(made_up(rng).capitalize() for _ in range(rng.choice([1, 1, 2])))


def careless(rng, text: str) -> str:
    """A question as people type it: now and then without capitals or the last mark."""
    if rng.random() < 0.1:
        text = text.lower()
    if rng.random() < 0.12 and text[-1:] in "?.!":
        text = text[:-1]
    return text


def article(noun: str) -> str:
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def joined(items: list) -> str:
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]
