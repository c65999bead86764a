"""A job's trace: ids that every process works out by itself, and nothing at all while nobody asked for it."""

import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from aos_service.errors import TelemetryError
from aos_service.tracing import Span, Telemetry, Where, ended, exporting, sending_to, span, where

JOB = "8d969eef6ecad3c29a3a629280e686cf0c3f5d5a86aff3ca12020c923adc6c92"
OTHER = "0" * 31 + "1" + "0" * 32
places = st.builds(Where, st.integers(1, 2**128 - 1), st.integers(1, 2**64 - 1))


@pytest.fixture
def spans() -> Iterator[list[Span]]:
    """What is traced meanwhile, in the order of the ends."""
    kept: list[Span] = []

    def keep(one: Span, at_ns: int) -> None:
        assert one.started <= at_ns <= time.time_ns()
        kept.append(one)

    with sending_to(keep):
        yield kept


def test_a_place_follows_from_the_job_and_its_name_alone(spans: list[Span]) -> None:
    place = where(JOB, "task", "", 0, "0xAb")
    assert place is not None
    assert place == where(JOB, "task", "", "0", "0xAb")
    assert f"{place.trace:032x}" == JOB[:32]
    others = [where(JOB, "task", "", 1, "0xAb"), where(JOB), where(OTHER, "task", "", 0, "0xAb")]
    assert len({place.span, *(other.span for other in others if other)}) == 4
    assert spans == []


@given(places)
def test_a_header_brings_the_same_place_back(place: Where) -> None:
    assert Where.from_header(place.headers["traceparent"]) == place


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "00-" + "0" * 32 + "-" + "1" * 16 + "-01",
        "00-" + "1" * 32 + "-" + "0" * 16 + "-01",
        "ff-" + "1" * 32 + "-" + "1" * 16 + "-01",
        "00-" + "1" * 32 + "-" + "1" * 16 + "-01-more",
        "00-" + "A" * 32 + "-" + "1" * 16 + "-01",
        " 00-" + "1" * 32 + "-" + "1" * 16 + "-01",
    ],
)
def test_what_is_no_header_of_version_0_is_no_parent(header: str | None) -> None:
    assert Where.from_header(header) is None


def test_a_span_is_below_the_one_that_it_runs_in(spans: list[Span]) -> None:
    root, seat = where(JOB, "submit"), where(JOB, "dispatch_job", "0xAb")
    with span("round", parent=root, tag="") as outer:
        with span("draw", model="tiny.gguf") as drawing:
            drawing.note(members=3)
        with span("dispatch_job", at=seat, kind="producer"):
            pass
    assert [one.name for one in spans] == ["draw", "dispatch_job", "round"]
    draw, dispatch, round_ = spans
    assert root is not None
    assert (round_.parent, round_.attributes) == (root, {"tag": ""})
    assert draw.parent == dispatch.parent == outer.at == round_.at
    assert draw.attributes == {"model": "tiny.gguf", "members": 3}
    assert (dispatch.at, dispatch.kind) == (seat, "producer")
    assert {one.at.trace for one in spans if one.at} == {root.trace}


def test_after_a_block_its_span_is_nobody_s_parent(spans: list[Span]) -> None:
    with span("one", parent=where(JOB)):
        pass
    with span("adrift"):
        pass
    assert [one.name for one in spans] == ["one"]


def test_an_exception_marks_its_span_by_its_class_without_its_words(spans: list[Span]) -> None:
    with pytest.raises(ValueError, match="secret"), span("work", parent=where(JOB)):
        raise ValueError("a secret prompt")
    assert spans[0].error == "ValueError"


def test_what_got_its_place_at_the_end_has_no_parent(spans: list[Span]) -> None:
    ended("submit", where(JOB, "submit"), time.time_ns(), model="tiny.gguf")
    assert (spans[0].at, spans[0].parent, spans[0].attributes) == (
        where(JOB, "submit"),
        None,
        {"model": "tiny.gguf"},
    )


def test_without_a_receiver_nothing_is_kept_and_no_header_is_sent() -> None:
    assert where(JOB) is None
    with span("work", at=Where(1, 2), parent=Where(1, 3)) as one:
        one.note(members=1)
    ended("submit", where(JOB), time.time_ns())
    assert (one.headers, one.attributes) == ({}, {})


def test_a_header_is_sent_from_within_a_span_only(spans: list[Span]) -> None:
    with span("worker", at=where(JOB), kind="client") as one:
        assert Where.from_header(one.headers["traceparent"]) == where(JOB)
    assert len(spans) == 1


@pytest.mark.parametrize("url", ["127.0.0.1:4318", "grpc://127.0.0.1:4317"])
def test_nothing_starts_with_an_endpoint_that_is_no_url(url: str) -> None:
    with pytest.raises(TelemetryError, match="must be http://host:port"), exporting("test", url):
        pytest.fail("it must not start")


def test_nothing_of_opentelemetry_is_imported_unless_there_is_an_endpoint() -> None:
    program = (
        "import sys; from aos_service.tracing import exporting, span, where\n"
        "with exporting('test', None), span('work', at=where('0' * 64)): pass\n"
        "sys.exit(any(name.partition('.')[0] in {'opentelemetry', 'requests'} for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_an_endpoint_without_the_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aos_service.tracing_otlp", None)
    with (
        pytest.raises(TelemetryError, match="install aos with the extra `otel`"),
        exporting("test", "http://127.0.0.1:4318"),
    ):
        pytest.fail("it must not start")


@pytest.mark.parametrize("url", ["127.0.0.1:4318", "grpc://127.0.0.1:4317", "http://", ""])
def test_an_endpoint_that_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(ValidationError, match="must be http://host:port"):
        Telemetry(otlp_endpoint=url)


def test_an_endpoint_may_be_left_out() -> None:
    assert Telemetry().otlp_endpoint is None
    assert Telemetry(otlp_endpoint="https://otel.example").otlp_endpoint == "https://otel.example"
