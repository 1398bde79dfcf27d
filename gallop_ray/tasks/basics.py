"""Small general tasks that need no data and no network: what a language model knows before it is tuned, and may forget.

They are no benchmark. Their use is that their answers are known to models of a hundred million parameters, so that
forgetting shows where nothing else can be reached.
"""

import random
from collections.abc import Callable, Iterable, Mapping

from gallop_ray.spec.basics import basics_source
from gallop_ray.tasks.sources.table import Table

_CHOICES = 4
_SENTENCES = 8  # of a text
_TEXTS = 200


def _pairs(text: str) -> dict[str, str]:
    return dict(each.strip().split(":") for each in text.replace("\n", ",").split(",") if each.strip())


_CAPITALS = _pairs("""
France:Paris, Germany:Berlin, Italy:Rome, Spain:Madrid, Portugal:Lisbon, Austria:Vienna, Switzerland:Bern
Belgium:Brussels, Denmark:Copenhagen, Sweden:Stockholm, Norway:Oslo, Finland:Helsinki, Iceland:Reykjavik
Ireland:Dublin, Poland:Warsaw, Hungary:Budapest, Romania:Bucharest, Bulgaria:Sofia, Greece:Athens
Turkey:Ankara, Russia:Moscow, Ukraine:Kyiv, Serbia:Belgrade, Croatia:Zagreb, Slovenia:Ljubljana
Slovakia:Bratislava, Estonia:Tallinn, Latvia:Riga, Lithuania:Vilnius, Albania:Tirana, Egypt:Cairo
Morocco:Rabat, Tunisia:Tunis, Libya:Tripoli, Kenya:Nairobi, Ethiopia:Addis Ababa, Ghana:Accra, Nigeria:Abuja
Senegal:Dakar, Uganda:Kampala, Zimbabwe:Harare, Zambia:Lusaka, Angola:Luanda, Rwanda:Kigali, Somalia:Mogadishu
Sudan:Khartoum, Japan:Tokyo, China:Beijing, India:New Delhi, Thailand:Bangkok, Vietnam:Hanoi
Indonesia:Jakarta, Malaysia:Kuala Lumpur, Nepal:Kathmandu, Pakistan:Islamabad, Bangladesh:Dhaka
Afghanistan:Kabul, Iran:Tehran, Iraq:Baghdad, Syria:Damascus, Lebanon:Beirut, Jordan:Amman, Qatar:Doha
Oman:Muscat, Mongolia:Ulaanbaatar, South Korea:Seoul, North Korea:Pyongyang, Taiwan:Taipei
Cambodia:Phnom Penh, Laos:Vientiane, the Philippines:Manila, Australia:Canberra, New Zealand:Wellington
Canada:Ottawa, Mexico:Mexico City, Cuba:Havana, Jamaica:Kingston, Brazil:Brasilia, Argentina:Buenos Aires
Chile:Santiago, Peru:Lima, Colombia:Bogota, Venezuela:Caracas, Ecuador:Quito, Uruguay:Montevideo
Paraguay:Asuncion, Bolivia:Sucre, the United Kingdom:London, the United States:Washington
the Netherlands:Amsterdam, the Czech Republic:Prague
""")
_OPPOSITES = _pairs("""
hot:cold, big:small, tall:short, fast:slow, old:new, good:bad, happy:sad, light:dark, high:low, hard:soft
wet:dry, rich:poor, strong:weak, young:old, early:late, near:far, open:closed, full:empty, clean:dirty
thick:thin, wide:narrow, deep:shallow, heavy:light, loud:quiet, right:wrong, true:false, first:last
left:right, up:down, inside:outside, above:below, before:after, push:pull, buy:sell, give:take, win:lose
love:hate, laugh:cry, begin:end, arrive:leave, remember:forget, ask:answer, sharp:blunt, smooth:rough
sweet:sour, brave:cowardly, kind:cruel, polite:rude, lazy:busy, wise:foolish, safe:dangerous, cheap:expensive
easy:difficult, simple:complex, common:rare, public:private, rural:urban, male:female, maximum:minimum
north:south, east:west, summer:winter, day:night, war:peace, friend:enemy, success:failure, victory:defeat
question:answer, positive:negative, ancient:modern, alive:dead, awake:asleep, guilty:innocent, present:absent
visible:invisible, even:odd, forward:backward, entrance:exit, import:export, increase:decrease, accept:refuse
attack:defend, build:destroy, find:lose, love:hate, teach:learn, borrow:lend, save:spend, add:subtract
multiply:divide, tight:loose, straight:curved, top:bottom
""")
_KINDS: Mapping[str, str] = {
    "an animal": "dog cat horse cow pig sheep lion tiger elephant monkey rabbit wolf bear fox goat camel deer mouse "
    "zebra giraffe dolphin whale kangaroo squirrel",
    "a fruit": "apple banana orange pear grape lemon mango peach plum cherry strawberry pineapple melon kiwi fig",
    "a color": "red blue green yellow purple pink brown black white gray turquoise violet",
    "a musical instrument": "piano violin guitar flute trumpet drum cello harp saxophone clarinet trombone banjo",
    "a vehicle": "car bus truck bicycle motorcycle train tractor tram van taxi ambulance scooter",
    "a piece of furniture": "chair table sofa desk bed wardrobe bookcase stool bench cupboard dresser",
    "a profession": "doctor teacher lawyer carpenter plumber nurse farmer baker butcher tailor dentist engineer",
    "a vegetable": "carrot onion potato cabbage spinach broccoli lettuce cucumber garlic celery cauliflower",
    "a tool": "hammer saw screwdriver wrench pliers drill chisel shovel rake axe",
    "a piece of clothing": "shirt jacket coat dress skirt sweater hat glove scarf sock",
    "a sport": "football tennis basketball hockey golf swimming boxing volleyball rugby baseball",
}
_Asked = tuple[str, str, list[str]]
"""A question, its answer, and what else the answer might be."""


def _capitals(draw: random.Random) -> Iterable[_Asked]:
    for country, capital in _CAPITALS.items():
        yield f"What is the capital of {country}?", capital, list(_CAPITALS.values())


def _opposites(draw: random.Random) -> Iterable[_Asked]:
    for word, other in _OPPOSITES.items():
        yield f"What is the opposite of {word}?", other, [each for each in _OPPOSITES.values() if each != word]


def _kinds(draw: random.Random) -> Iterable[_Asked]:
    for kind, words in _KINDS.items():
        for word in words.split():
            yield f"What kind of thing does the word {word} name?", kind, list(_KINDS)


def _counting(draw: random.Random) -> Iterable[_Asked]:
    for number in range(3, 203):
        last = number + 3
        yield f"Which number comes next: {number}, {number + 1}, {number + 2}?", str(last), _near(last)


def _sums(draw: random.Random) -> Iterable[_Asked]:
    for first in range(1, 13):
        for second in range(1, 13):
            yield f"What is {first} plus {second}?", str(first + second), _near(first + second)


def _near(number: int) -> list[str]:
    return [str(each) for each in range(max(0, number - 5), number + 6) if each != number]


_TASKS: Mapping[str, Callable[[random.Random], Iterable[_Asked]]] = {
    "capitals": _capitals,
    "opposites": _opposites,
    "kinds": _kinds,
    "counting": _counting,
    "sums": _sums,
}


def basics_table(name: str) -> Table:
    """The rows of a task, the same at every call: a question, four choices, and which is right."""
    draw = random.Random(name)
    rows = []
    for place, (question, answer, others) in enumerate(_TASKS[name](draw), 1):
        wrong = draw.sample(sorted({*others} - {answer}), _CHOICES - 1)
        choices = draw.sample([answer, *wrong], _CHOICES)
        row = {"question": question, "choices": choices, "label": choices.index(answer)}
        rows.append((f"{basics_source(name)}, row {place}", row))
    return Table(rows)


def basics_texts() -> list[str]:
    """Short texts of true sentences in plain English, the same at every call."""
    draw = random.Random("texts")
    said = [f"The capital of {country} is {capital}." for country, capital in _CAPITALS.items()]
    said += [f"The opposite of {word} is {other}." for word, other in _OPPOSITES.items()]
    said += [f"The word {word} names {kind}." for kind, words in _KINDS.items() for word in words.split()]
    said += [f"After {number} comes {number + 1}." for number in range(1, 100)]
    return [" ".join(draw.sample(said, _SENTENCES)) for _ in range(_TEXTS)]
