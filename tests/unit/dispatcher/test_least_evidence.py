"""Who is let in by which policy: operators say of each model what can be shown of its answers."""

import itertools

import pytest

from aos_dispatcher.admission import check_evidence
from aos_dispatcher.errors import DispatcherError
from aos_dispatcher.settings import Verification
from aos_protocol.fields import EVIDENCE_LEVELS, EvidenceLevel
from aos_protocol.messages import ServedModel

STRONG = ServedModel(name="strong", sha256="ab" * 32)


@pytest.mark.parametrize(("least", "offered"), list(itertools.product(EVIDENCE_LEVELS, repeat=2)))
def test_a_model_is_taken_that_shows_as_much_or_more(least: EvidenceLevel, offered: EvidenceLevel) -> None:
    models = [STRONG, ServedModel(name="weak", sha256="cd" * 32, evidence=offered)]
    if EVIDENCE_LEVELS.index(offered) <= EVIDENCE_LEVELS.index(least):
        check_evidence(models, least)
        return
    with pytest.raises(DispatcherError) as refused:
        check_evidence(models, least)
    said = str(refused.value)
    assert said.startswith(f"answers must show {least} at least here, and of weak shows {offered}: serve")
    assert "verification.least_evidence" in said
    assert "strong" not in said


def test_every_weak_model_is_named() -> None:
    weak = [ServedModel(name=name, sha256="cd" * 32, evidence="text") for name in ("one", "two")]
    with pytest.raises(DispatcherError, match="of one shows text, two shows text:"):
        check_evidence(weak, "logprobs")


def test_whoever_says_nothing_takes_transcripts_only() -> None:
    assert Verification().least_evidence == "fingerprints"


@pytest.mark.parametrize("level", ["", "nothing", "Text"])
def test_another_level_is_no_setting(level: object) -> None:
    with pytest.raises(ValueError, match="least_evidence"):
        Verification.model_validate({"least_evidence": level})
