"""A table of plain facts and the ways to ask for them; the held-out part is a fact in a phrasing never trained together."""

from split import draw
from words import article

CAPITALS = dict(pair.split(":") for pair in """France:Paris|Germany:Berlin|Italy:Rome|Spain:Madrid|Portugal:Lisbon
Austria:Vienna|Norway:Oslo|Sweden:Stockholm|Finland:Helsinki|Denmark:Copenhagen|Ireland:Dublin|Greece:Athens
Poland:Warsaw|Hungary:Budapest|Romania:Bucharest|Bulgaria:Sofia|Croatia:Zagreb|Serbia:Belgrade|Ukraine:Kyiv|Belgium:Brussels
Iceland:Reykjavik|Estonia:Tallinn|Latvia:Riga|Lithuania:Vilnius|Slovakia:Bratislava|Slovenia:Ljubljana|Turkey:Ankara
Egypt:Cairo|Kenya:Nairobi|Ghana:Accra|Nigeria:Abuja|Morocco:Rabat|Tunisia:Tunis|Senegal:Dakar|Ethiopia:Addis Ababa
Japan:Tokyo|China:Beijing|India:New Delhi|Thailand:Bangkok|Vietnam:Hanoi|Indonesia:Jakarta|South Korea:Seoul|Nepal:Kathmandu
Iran:Tehran|Iraq:Baghdad|Jordan:Amman|Canada:Ottawa|Mexico:Mexico City|Cuba:Havana|Peru:Lima|Chile:Santiago
Brazil:Brasilia|Argentina:Buenos Aires|Colombia:Bogota|Ecuador:Quito|Uruguay:Montevideo|Australia:Canberra
New Zealand:Wellington|Fiji:Suva""".replace("\n", "|").split("|"))
COLOURS = dict(pair.split(":") for pair in """the sky:blue|grass:green|snow:white|coal:black|blood:red|a banana:yellow
a lemon:yellow|a tomato:red|an orange:orange|milk:white|chocolate:brown|the sun:yellow|a carrot:orange|an elephant:grey
a frog:green|a strawberry:red|a leaf:green|a raven:black|a plum:purple|the sea:blue""".replace("\n", "|").split("|"))
SOUNDS = dict(pair.split(":") for pair in
              "dog:woof|cat:meow|cow:moo|duck:quack|sheep:baa|pig:oink|horse:neigh|owl:hoot|frog:ribbit|snake:hiss|lion:roar".split("|"))
YOUNG = dict(pair.split(":") for pair in """dog:puppy|cat:kitten|cow:calf|duck:duckling|sheep:lamb|pig:piglet|horse:foal
goat:kid|hen:chick|bear:cub|frog:tadpole|owl:owlet|deer:fawn|goose:gosling""".replace("\n", "|").split("|"))
LEGS = dict(dog="four", cat="four", spider="eight", ant="six", bird="two", horse="four", bee="six", snake="no", fish="no", hen="two", crab="ten")
SIDES = dict(triangle="three", square="four", rectangle="four", pentagon="five", hexagon="six", octagon="eight")
OPPOSITES = dict(pair.split(":") for pair in """hot:cold|big:small|up:down|left:right|day:night|black:white|fast:slow
old:young|open:closed|happy:sad|high:low|full:empty|hard:soft|wet:dry|long:short|early:late|light:dark|rich:poor
strong:weak|loud:quiet|first:last|good:bad|true:false|clean:dirty|near:far|thick:thin|win:lose|push:pull
inside:outside|summer:winter""".replace("\n", "|").split("|"))
PLURALS = dict(pair.split(":") for pair in
               "mouse:mice|foot:feet|tooth:teeth|child:children|man:men|woman:women|goose:geese|fish:fish|sheep:sheep|cat:cats|box:boxes|baby:babies|leaf:leaves".split("|"))
SYMBOLS = dict(hydrogen="H", helium="He", carbon="C", nitrogen="N", oxygen="O", sodium="Na", iron="Fe", copper="Cu", silver="Ag", gold="Au", lead="Pb", zinc="Zn")
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
PLANETS = "Mercury Venus Earth Mars Jupiter Saturn Uranus Neptune".split()
NUMBERS = "zero one two three four five six seven eight nine ten eleven twelve".split()
ORDINALS = "first second third fourth fifth sixth seventh eighth".split()


def _rows() -> list:
    """Each fact: its key, how to ask, the full sentence and the bare answer."""
    rows = []

    def add(key, asked, sentence, bare):
        rows.append((key, asked, sentence, bare))

    for country, capital in CAPITALS.items():
        add(country, [f"What is the capital of {country}?", f"What is {country}'s capital?", f"Name the capital of {country}.",
                      f"Which city is the capital of {country}?", f"Tell me the capital of {country}."],
            f"The capital of {country} is {capital}.", capital)
        add(capital, [f"Which country has the capital {capital}?", f"{capital} is the capital of which country?",
                      f"Of which country is {capital} the capital?"],
            f"{capital} is the capital of {country}.", country)
    for thing, colour in COLOURS.items():
        add(thing, [f"What colour is {thing}?", f"What is the colour of {thing}?", f"What color is {thing}?",
                    f"Which colour does {thing} have?"],
            f"{thing[0].upper()}{thing[1:]} is {colour}.", colour)
    for animal, sound in SOUNDS.items():
        add(animal + " sound", [f"What does {article(animal)} say?", f"What sound does {article(animal)} make?"],
            f"{article(animal).capitalize()} says {sound}.", sound)
    for animal, young in YOUNG.items():
        add(animal + " young", [f"What is a young {animal} called?", f"What do you call a baby {animal}?",
                                f"What is the young of {article(animal)}?"], f"A young {animal} is called {article(young)}.", young)
    for animal, legs in LEGS.items():
        add(animal + " legs", [f"How many legs does {article(animal)} have?", f"How many legs has {article(animal)}?"],
            f"{article(animal).capitalize()} has {legs} legs.", legs)
    for shape, sides in SIDES.items():
        add(shape, [f"How many sides does {article(shape)} have?", f"How many sides has {article(shape)}?"],
            f"{article(shape).capitalize()} has {sides} sides.", sides)
    for one, other in [*OPPOSITES.items(), *((b, a) for a, b in OPPOSITES.items())]:
        add(one + " opposite", [f"What is the opposite of {one}?", f"Name the opposite of {one}.", f'What is the opposite of "{one}"?'],
            f"The opposite of {one} is {other}.", other)
    for one, many in PLURALS.items():
        add(one + " plural", [f"What is the plural of {one}?", f'What is the plural of "{one}"?', f"Give the plural of {one}."],
            f"The plural of {one} is {many}.", many)
    for element, symbol in SYMBOLS.items():
        add(element, [f"What is the chemical symbol of {element}?", f"What is the symbol for {element}?"],
            f"The chemical symbol of {element} is {symbol}.", symbol)
    for circle, kind in ((DAYS, "day"), (MONTHS, "month")):
        for i, here in enumerate(circle):
            after, before = circle[(i + 1) % len(circle)], circle[i - 1]
            add(here + " after", [f"What {kind} comes after {here}?", f"Which {kind} follows {here}?"], f"{after} comes after {here}.", after)
            add(here + " before", [f"What {kind} comes before {here}?", f"Which {kind} is before {here}?"],
                f"{before} comes before {here}.", before)
    for i, planet in enumerate(PLANETS):
        add(planet, [f"Which planet is the {ORDINALS[i]} from the Sun?", f"What is the {ORDINALS[i]} planet from the Sun?"],
            f"{planet} is the {ORDINALS[i]} planet from the Sun.", planet)
    for i, word in enumerate(NUMBERS):
        add(f"number {i}", [f"How do you write {i} in words?", f"Write {i} as a word."], f"{i} is written {word}.", word)
        add(f"word {i}", [f"Which number is {word}?", f"Write {word} as a number."], f"{word.capitalize()} is {i}.", str(i))
    for i in range(25):
        here, after = chr(65 + i), chr(66 + i)
        add(here, [f"Which letter comes after {here}?", f"What letter follows {here}?"], f"The letter {after} comes after {here}.", after)
    return rows


FACTS = _rows()
ONE_WORD = ["Answer in one word: {}", "{} Answer with one word only.", "{} Reply with the answer only."]


def turn(rng, held_out: bool):
    def make(rng):
        key, asked, sentence, bare = rng.choice(FACTS)
        question, style = rng.choice(asked), rng.random()
        if style < 0.2:
            question, sentence = rng.choice(ONE_WORD).format(question), bare
        elif style < 0.3:
            question = "Please tell me: " + question[0].lower() + question[1:]
        elif style < 0.4:
            question = question.lower()
        return (key, question), (question, sentence)

    return draw(make, rng, held_out)


def check(rng):
    """A yes-or-no question on a capital."""
    country, other = rng.sample(list(CAPITALS), 2)
    right = rng.random() < 0.5
    asked = f"Is {CAPITALS[country if right else other]} the capital of {country}?"
    return asked, f"{'Yes' if right else 'No'}, the capital of {country} is {CAPITALS[country]}."


def statement(rng) -> str:
    return rng.choice(FACTS)[2]
