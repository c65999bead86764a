"""What the model reads: documents drawn from a seeded mixture, and the part that is held out."""

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

from demo_model.chat import BOS, Message, chat_document, prose_document, raw_document
from demo_model.docstrings import library_docstrings
from demo_model.invention import invent
from demo_model.questions import Entry, reword_answer, reword_question, written_entries

SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You are a helpful assistant. Answer briefly.",
    "Answer the question in a few sentences.",
    "You are the demo model of AOS.",
    "You explain computer science in simple words.",
)
_HELD_OUT_ONE_IN = 20
_EMPHASIS = 8  # the subject of the documented example is drawn this many times as often as another
_EMPHASISED_QUESTION = "What is AI?"
# Shares of the drawn documents. Docstrings are longer, so they are about a third of the tokens.
_SHARES = {"questions": 0.60, "inventions": 0.20, "docstrings": 0.20}


def held_out(text: str) -> bool:
    """Whether `text` belongs to the held-out part: by its own hash, so additions move nothing else."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") % _HELD_OUT_ONE_IN == 0


@dataclass(frozen=True)
class Corpus:
    """Entries and prose to draw documents from."""

    entries: tuple[Entry, ...]
    prose: tuple[str, ...]

    @classmethod
    def load(cls) -> "Corpus":
        """The written questions and the docstrings of the running Python."""
        return cls(written_entries(), tuple(library_docstrings()))

    def documents(self, seed: int) -> Iterator[str]:
        """Training documents without end, the same for the same seed."""
        rng = random.Random(seed)
        names, shares = tuple(_SHARES), tuple(_SHARES.values())
        while True:
            match rng.choices(names, shares)[0]:
                case "questions":
                    yield self._question_document(rng)
                case "inventions":
                    request = invent(rng)
                    yield _dressed([(request.question, request.answer)], rng)
                case _:
                    yield prose_document(rng.choice(self._training_prose))

    def held_out(self) -> dict[str, list[str]]:
        """Documents that training never draws, by kind: pairs of question and answer, stories, docstrings."""
        rng = random.Random("held out")
        return {
            "questions": [
                raw_document(question, answer)
                for entry in self.entries
                for question in entry.questions
                for answer in entry.answers
                if held_out(question + answer)
            ],
            "inventions": [raw_document(*invent(rng)) for _ in range(200)],
            "docstrings": [prose_document(text) for text in self.prose if held_out(text)],
        }

    def vocabulary_text(self, seed: int) -> list[str]:
        """Documents that the vocabulary is learned from."""
        return list(islice(self.documents(seed), 20_000))

    @cached_property
    def _training_prose(self) -> tuple[str, ...]:
        return tuple(text for text in self.prose if not held_out(text))

    @cached_property
    def _weights(self) -> tuple[float, ...]:
        return tuple(
            _EMPHASIS if _EMPHASISED_QUESTION in entry.questions else len(entry.answers) ** 0.5
            for entry in self.entries
        )

    def _question_document(self, rng: random.Random) -> str:
        turns = rng.choices((1, 2, 4, 8), (85, 9, 4, 2))[0]
        return _dressed([self._pair(rng) for _ in range(turns)], rng)

    def _pair(self, rng: random.Random) -> tuple[str, str]:
        while True:
            entry = rng.choices(self.entries, self._weights)[0]
            question, answer = rng.choice(entry.questions), rng.choice(entry.answers)
            if not held_out(question + answer):
                return reword_question(question, rng), reword_answer(answer, rng)


def _dressed(pairs: list[tuple[str, str]], rng: random.Random) -> str:
    """Question and answer pairs as one document: a single pair raw or as chat, several always as chat."""
    if len(pairs) == 1 and rng.random() < 0.55:
        return raw_document(*pairs[0])
    messages = [Message("system", rng.choice(SYSTEM_PROMPTS))] if rng.random() < 0.3 else []
    for question, answer in pairs:
        messages += [Message("user", question), Message("assistant", answer)]
    # Many programs put BOS before a template that has one already; the model should not mind.
    doubled = BOS if rng.random() < 0.1 else ""
    return doubled + chat_document(messages)
