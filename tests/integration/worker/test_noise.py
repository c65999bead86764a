"""Honest answers of the demo model whose noise its calibration never saw: loops and random tokens, in the worst of cells.

A slot that ends gives its cells back, and those who still write get them: then an answer's later tokens lie before its first. With flash
attention, sums in half precision made honest answers look like a quantised cache there.
"""

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

import numpy as np
import pytest

from aos_inference import llama
from aos_protocol import fingerprint, sampling
from aos_protocol.calibration import Calibration
from aos_protocol.score_document import Score
from aos_protocol.scoring import Accumulator
from aos_protocol.verdict import judge

SLOTS: Final = 8
TOKENS: Final = 300
PROVER: Final = f"0x{'1' * 40}"
MOST: Final = 0.006
"""The greatest honest distance of a token; the calibration's own are up to 0.012, and with flash attention these have up to 0.02 and more."""


@pytest.fixture(scope="module")
def calibration(demo_model: Path) -> Calibration:
    return Calibration.from_json(json.loads(demo_model.with_suffix(".calibration.json").read_text()))


@pytest.fixture(scope="module")
def model(demo_model: Path) -> Iterator[llama.Model]:
    with closing(llama.Model(demo_model)) as opened:
        yield opened


def written(
    model: llama.Model, prompt: list[int], temperature: float, seed: bytes, others: int
) -> tuple[list[int], fingerprint.Fingerprints]:
    """An answer's tokens and fingerprints; seven others, with 60 tokens each in lower cells, end when it has `others` tokens."""
    along = fingerprint.directions(seed, PROVER, model.vocabulary)
    tokens: list[int] = []
    prints = []
    with closing(llama.Context(model, TOKENS + 128, SLOTS, 1)) as context:
        for slot in range(1, SLOTS):
            context.decode([(slot, token, place, False) for place, token in enumerate([model.bos] * 60)])
        logits = context.decode(
            [(0, token, place, place == len(prompt) - 1) for place, token in enumerate(prompt)]
        )
        while True:
            prints.append(fingerprint.project(logits, along))
            token = sampling.sample(
                logits[0], sampling.sampling_seed(seed), len(tokens), temperature, top_p=1.0
            )
            tokens.append(token)
            if len(tokens) == TOKENS:
                return tokens, np.concatenate(prints)
            for slot in range(1, SLOTS if len(tokens) == others else 1):
                context.keep(slot, 0)
            logits = context.decode([(0, token, len(prompt) + len(tokens) - 1, True)])


def scored(
    model: llama.Model,
    digest: str,
    prompt: list[int],
    temperature: float,
    seed: bytes,
    answer: tuple[list[int], fingerprint.Fingerprints],
) -> Score:
    """As a verifier does: in one pass over prompt and answer, 128 rows at a time."""
    tokens, prints = answer
    scores = Accumulator(
        tokens,
        temperature,
        1.0,
        seed=sampling.sampling_seed(seed),
        along=fingerprint.directions(seed, PROVER, model.vocabulary),
        claimed=prints,
    )
    fed, silent = [*prompt, *tokens[:-1]], len(prompt) - 1
    with closing(llama.Context(model, TOKENS + 128, SLOTS, 1)) as context:
        for start in range(0, len(fed), 128):
            part = list(enumerate(fed))[start : start + 128]
            scores.add(context.decode([(0, token, place, place >= silent) for place, token in part]))
    return scores.score("ab" * 32, digest, "test")


@pytest.mark.parametrize("others", [100, 200, 270])
@pytest.mark.parametrize(
    ("prompt", "temperature"),
    [
        ("0 0 0 0 0 0 0 0 0 0 0 0", 0.0),
        ("the the the the the the", 0.0),
        ("abcabcabcabcabc", 1.0),
        ("What is AI?", 5.0),
        ("", 2.0),
    ],
)
def test_no_context_makes_an_honest_answer_a_mismatch(
    model: llama.Model, calibration: Calibration, prompt: str, temperature: float, others: int
) -> None:
    tokens, seed = [model.bos, *model.tokenize(prompt)], others.to_bytes(32, "big")
    answer = written(model, tokens, temperature, seed, others)
    score = scored(model, calibration.model, tokens, temperature, seed, answer)
    assert max(score.distances or ()) < MOST
    verdict = judge(score, calibration)
    assert verdict.outcome == "match", verdict
    assert verdict.statistics["distance_evidence"] < 0
