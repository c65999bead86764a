"""A short run of the fuzzer, and that it would find what it looks for."""

import os
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest

from aos_protocol.errors import InvalidAttestation
from fuzz.attestation import Tally, Worker, examine, examine_all, mutant, summary
from fuzz.mutations import BYTES, STRUCTURE
from fuzz.targets import Target, targets

MANY = 2_000


@pytest.fixture(scope="module")
def kinds(vectors: Path) -> list[Target]:
    return targets(vectors)


@pytest.fixture(scope="module")
def tally(kinds: list[Target]) -> Tally:
    return examine_all(kinds, 4, range(MANY))


def test_no_mutant_is_accepted_and_none_raises_anything_else(tally: Tally) -> None:
    assert tally.failures == []
    assert tally.documents.total() == tally.reasons.total() + tally.unchanged.total() == MANY
    assert tally.slowest[0] < 5


def test_all_kinds_and_mutations_occur_and_reach_deep(kinds: list[Target], tally: Tally) -> None:
    assert tally.documents.keys() == {each.kind for each in kinds}
    assert tally.mutations.keys() == {each.__name__ for each in (*BYTES, *STRUCTURE)}
    assert tally.unchanged.keys() <= {each.kind for each in kinds if each.may_pass}
    reasons = {kind: [reason for its, reason in tally.reasons if its == kind] for kind in tally.documents}
    assert len(reasons["nitro"]) > 50
    for kind, part in (
        ("nitro", "signature is not by the key of its certificate"),
        ("nitro", "does not bear that one's signature"),
        ("tdx", "ISV enclave report signature is invalid"),
        ("sev-snp", "signature is not by the chip's key"),
    ):
        assert any(part in reason for reason in reasons[kind])


def test_a_mutant_is_the_same_whenever_it_is_made(kinds: list[Target]) -> None:
    for index in range(20):
        assert mutant(kinds, 1, index).document == mutant(kinds, 1, index).document
        assert mutant(kinds, 1, index).document != mutant(kinds, 2, index).document


def test_genuine_documents_pass_where_they_must(kinds: list[Target]) -> None:
    rejected = []
    for target in kinds:
        for genuine in target.genuine:
            try:
                genuine.verify(genuine.document)
            except InvalidAttestation:
                rejected.append(genuine.name)
    assert rejected == ["tdx_quote_outdated.bin"]


def test_a_verifier_that_accepts_is_found_out(kinds: list[Target]) -> None:
    tally = Tally()
    tried = mutant(kinds, 1, 0)
    examine(replace(tried, parent=replace(tried.parent, verify=lambda _: "fine")), tally)
    assert len(tally.failures) == 1
    assert tally.failures[0].endswith("was accepted")


@pytest.mark.parametrize("error", [ValueError("x"), MemoryError(), RecursionError(), SystemExit(3)])
def test_a_verifier_that_raises_something_else_is_found_out(
    error: BaseException, kinds: list[Target]
) -> None:
    def fails(_document: bytes) -> NoReturn:
        raise error

    tally = Tally()
    tried = mutant(kinds, 1, 0)
    examine(replace(tried, parent=replace(tried.parent, verify=fails)), tally)
    assert f"raised {type(error).__name__}" in tally.failures[0]
    assert "FAILED: mutant 0 of" in summary(tally, 1.0)


@pytest.mark.parametrize("mutation", [*BYTES, *STRUCTURE])
def test_mutations_change_documents(mutation: object, kinds: list[Target]) -> None:
    documents: Sequence[bytes] = [each.document for each in kinds[0].genuine]
    rng = random.Random(1)
    mutants = {mutation(rng, documents[0], documents) for _ in range(50)}  # type: ignore[operator]
    assert len(mutants - set(documents)) > 5


def test_a_process_that_hangs_is_ended_and_named(vectors: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fuzz.attestation.DEADLINE_S", 0.5)
    monkeypatch.setattr("fuzz.attestation.examine", lambda *_: time.sleep(60))
    worker = Worker(vectors, 1, range(7, 9))
    assert worker.result().failures == ["mutant 7 took more than 0.5 s"]
    worker._process.join(10)
    assert worker._process.exitcode == -9


def test_a_process_that_dies_is_named(vectors: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fuzz.attestation.examine", lambda *_: _die())
    assert Worker(vectors, 1, range(5, 9)).result().failures == ["the process died at mutant 5"]


def _die() -> NoReturn:
    os._exit(9)
