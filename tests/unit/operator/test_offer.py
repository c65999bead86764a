"""What an operator announces, and which jobs fit it."""

import pytest

from aos_operator.offer import Offer, select_models
from aos_protocol.errors import InvalidMessage
from aos_protocol.job import ImageSpec, JobSpec
from aos_protocol.messages import ServedModel
from unit.operator.world import MODEL, OFFER, SERVED

OTHER = ServedModel(name="another.gguf", sha256="cd" * 32)


def test_models_are_announced_by_name() -> None:
    offer = Offer("opml", {MODEL.name: SERVED, OTHER.name: OTHER})
    assert offer.announced() == [OTHER, SERVED]


def test_a_job_that_fits_passes() -> None:
    OFFER.check("opml", MODEL)


def test_a_model_is_run_for_the_kinds_of_jobs_only_that_it_was_announced_for() -> None:
    text = JobSpec(tag="opml", prompt="x", model=MODEL.name)
    made = JobSpec(tag="opml", prompt="x", model=MODEL.name, image=ImageSpec())
    edited = JobSpec(tag="opml", prompt="x", model=MODEL.name, image=ImageSpec(source="1" * 64))
    offer = Offer("opml", {MODEL.name: SERVED.model_copy(update={"kinds": [1]})})
    OFFER.check_job(text, MODEL)
    offer.check_job(made, MODEL)
    for refusing, job in ((OFFER, made), (offer, text), (offer, edited)):
        with pytest.raises(InvalidMessage, match=f"for other kinds of jobs than {job.kind}"):
            refusing.check_job(job, MODEL)


def test_a_tee_operator_names_the_type_that_it_needs() -> None:
    with pytest.raises(InvalidMessage, match=r"^unsupported worker type, need tee, got opml$"):
        Offer("tee", {MODEL.name: SERVED}).check("opml", MODEL)


def test_no_wish_takes_all_models() -> None:
    assert select_models([SERVED, OTHER], []) == ({MODEL.name: SERVED, OTHER.name: OTHER}, [])


def test_wishes_choose_and_what_is_missing_is_told() -> None:
    chosen, missing = select_models([SERVED, OTHER], [OTHER.name, "nothere.gguf"])
    assert chosen == {OTHER.name: OTHER}
    assert missing == ["nothere.gguf"]
