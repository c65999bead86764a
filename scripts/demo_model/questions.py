"""The written questions and answers: reading the text files, and saying the same thing in other words."""

import random
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from demo_model.errors import CorpusError

TEXT_FOLDER = Path(__file__).parent / "text"

# How a thing is asked for. {be} is "is" or "are".
_PHRASINGS = (
    "What {be} {term}?",
    "Explain what {term} {be}.",
    "Tell me about {term}.",
    "Can you explain {term}?",
    "Please explain {term}.",
    "Can you tell me what {term} {be}?",
    "In simple words, what {be} {term}?",
    "What do you know about {term}?",
    "I would like to know what {term} {be}.",
)

# Phrases that may stand for each other wherever they occur in an answer.
_SYNONYMS = (
    ("such as", "like"),
    ("often", "frequently"),
    ("usually", "normally", "generally"),
    ("very large", "huge"),
    ("does not", "doesn't"),
    ("do not", "don't"),
    ("is not", "isn't"),
    ("cannot", "can't"),
    ("because", "since"),
    ("anybody", "anyone"),
    ("everybody", "everyone"),
    ("nobody", "no one"),
    ("needs", "requires"),
    ("also called", "also known as"),
    ("for example", "for instance"),
    ("can check", "can verify"),
    ("check that", "verify that"),
    ("choose", "pick"),
    ("chosen", "picked"),
    ("holds", "contains"),
    ("computes", "calculates"),
    ("helps to", "helps"),
    ("so that", "so"),
)
_ALTERNATIVES = {phrase: group for group in _SYNONYMS for phrase in group}
# "like" and "so" are replaced only where the longer phrase stood: they have other meanings.
_ONE_WAY = {"like", "so", "helps", "since"}


@dataclass(frozen=True)
class Entry:
    """One subject: every way to ask about it, and every good answer."""

    questions: tuple[str, ...]
    answers: tuple[str, ...]


def parse_entries(text: str, source: str) -> list[Entry]:
    """Read entries separated by blank lines; `source` names the file in a `CorpusError`."""
    return [
        _parse_entry(block, source)
        for block in re.split(r"\n\s*\n", text)
        if any(line and not line.startswith("#") for line in block.splitlines())
    ]


@cache
def written_entries() -> tuple[Entry, ...]:
    """All entries of the text files beside this module, in the files' order."""
    files = sorted(TEXT_FOLDER.glob("*.txt"))
    if not files:
        raise CorpusError(f"no text files in {TEXT_FOLDER}; check out the whole repository")
    return tuple(entry for file in files for entry in parse_entries(file.read_text("utf-8"), file.name))


def reword_question(question: str, rng: random.Random) -> str:
    """The question as a hurried person types it, one time in six; else unchanged."""
    match rng.randrange(18):
        case 0:
            return question.lower()
        case 1:
            return question.rstrip("?.!")
        case 2:
            return question.lower().rstrip("?.!")
        case _:
            return question


def reword_answer(answer: str, rng: random.Random) -> str:
    """The answer with some phrases replaced by others that mean the same."""
    return _phrase_pattern().sub(lambda match: rng.choice(_ALTERNATIVES[match[0]]), answer)


@cache
def _phrase_pattern() -> re.Pattern[str]:
    phrases = sorted(set(_ALTERNATIVES) - _ONE_WAY, key=len, reverse=True)
    return re.compile(r"\b(?:" + "|".join(map(re.escape, phrases)) + r")\b")


def _parse_entry(block: str, source: str) -> Entry:
    questions: list[str] = []
    answers: list[str] = []
    for line in block.splitlines():
        mark, _, value = line.partition(": ")
        match mark:
            case _ if line.startswith("#"):
                continue
            case "T" | "TS":
                be = "is" if mark == "T" else "are"
                questions += [phrasing.format(be=be, term=value) for phrasing in _PHRASINGS]
            case "Q":
                questions.append(value)
            case "A":
                answers.append(value)
            case _:
                raise CorpusError(f"{source}: a line starts with T:, TS:, Q: or A:, not {line[:40]!r}")
    if not questions or not answers:
        raise CorpusError(f"{source}: an entry needs a question and an answer: {block[:60]!r}")
    return Entry(tuple(dict.fromkeys(questions)), tuple(answers))
