"""Seeded generator of varied text: stories, sums, order and lists.

Written questions alone would make a parrot: these documents give the model many equally good next words.
"""

import random
import tomllib
from pathlib import Path
from typing import NamedTuple

_WORDS: dict[str, list[str]] = tomllib.loads(Path(__file__).with_name("words.toml").read_text("utf-8"))


class Invention(NamedTuple):
    """A request and the text that was made up for it."""

    question: str
    answer: str


def invent(rng: random.Random) -> Invention:
    """Draw one document: mostly stories, some small tasks with exact answers."""
    maker = rng.choices((_story, _sum, _calendar, _listing), weights=(8, 2, 1, 1))[0]
    return maker(rng)


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _story(rng: random.Random) -> Invention:
    animal = rng.choice(_WORDS["animals"])
    what, place, name = (
        rng.choice(_WORDS["things"]),
        rng.choice(_WORDS["places"]),
        rng.choice(_WORDS["names"]),
    )
    hero = _article(f"{rng.choice(_WORDS['tempers'])} {animal}")
    opening = rng.choice(
        (
            f"Once upon a time {hero} named {name} lived {place}.",
            f"There was once {hero} {place}, whom everyone called {name}.",
            f"{name} was {hero} who lived {place}.",
        )
    )
    middle = [f"{name} {rng.choice(_WORDS['wishes'])}."]
    find = f"One {rng.choice(('day', 'evening', 'morning', 'night'))} {name} found {what}"
    middle.append(f"{find}, and just then {rng.choice(_WORDS['turns'])}.")
    if rng.random() < 0.6:
        helper = rng.choice(_WORDS["names"])
        middle.append(
            f"{helper} the {rng.choice(_WORDS['animals'])} said: {_advice(rng)} So {name} {rng.choice(_WORDS['deeds'])}."
        )
    if rng.random() < 0.6:
        middle.append(f"Then {rng.choice(_WORDS['turns'])}, and {name} {rng.choice(_WORDS['deeds'])}.")
    request = rng.choice(_WORDS["story_requests"]).format(who=_article(animal), what=what)
    return Invention(request, " ".join((opening, *middle, rng.choice(_WORDS["ends"]))))


def _advice(rng: random.Random) -> str:
    return rng.choice(
        (
            f"wait for {rng.choice(_WORDS['weekdays'])}.",
            f"look {rng.choice(_WORDS['places'])}.",
            f"you need {rng.choice(_WORDS['things'])}.",
            f"ask {rng.choice(_WORDS['names'])}, not me.",
            f"count to {rng.choice(_WORDS['numbers'][2:])} first.",
            "never trust, always check.",
        )
    )


def _sum(rng: random.Random) -> Invention:
    a, b = rng.randrange(11), rng.randrange(11)
    high, low = max(a, b), min(a, b)
    question, value = rng.choice(
        (
            (f"What is {a} plus {b}?", a + b),
            (f"What is {a} + {b}?", a + b),
            (f"What is {high} minus {low}?", high - low),
            (f"What is {high} - {low}?", high - low),
            (f"What is {_WORDS['numbers'][a]} plus {_WORDS['numbers'][b]}?", a + b),
        )
    )
    answer = rng.choice((f"The answer is {value}.", f"It is {_WORDS['numbers'][value]}.", f"{value}."))
    return Invention(question, answer)


def _calendar(rng: random.Random) -> Invention:
    names = rng.choice((_WORDS["weekdays"], _WORDS["months"]))
    i, before = rng.randrange(len(names)), rng.random() < 0.5
    asked, found = names[i], names[(i - 1 if before else i + 1) % len(names)]
    kind = "day" if names is _WORDS["weekdays"] else "month"
    relation = "before" if before else "after"
    return Invention(
        f"Which {kind} comes {relation} {asked}?",
        rng.choice((f"{found} comes {relation} {asked}.", f"It is {found}.", f"{found}.")),
    )


def _listing(rng: random.Random) -> Invention:
    pool, kind = rng.choice(
        ((_WORDS["names"], "names"), (_WORDS["animals"], "animals"), (_WORDS["things"], "things"))
    )
    count = rng.randrange(3, 7)
    chosen = rng.sample(pool, count)
    answer = f"{', '.join(chosen[:-1])} and {chosen[-1]}."
    return Invention(f"Give me {_WORDS['numbers'][count]} {kind}.", answer[0].upper() + answer[1:])
