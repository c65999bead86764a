"""Short runs of the fuzzers against a dispatcher process; long ones: python -m tests.fuzz.api, python -m tests.fuzz.frames."""

import random
import re
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from fuzz import api
from fuzz.api_hooks import with_known
from fuzz.frame_mutations import JUNK, bent, garbled, pieces, places, wire
from fuzz.frames import Outcome, attack_dispatcher
from support.dispatcher_process import dispatcher_process
from support.logs import marks

NewDatabase = Callable[[str], Awaitable[str]]


@pytest.mark.timeout(120)
async def test_answers_are_as_the_openapi_document_says(tmp_path: Path, new_database: NewDatabase) -> None:
    async with dispatcher_process(tmp_path, await new_database("dispatcher")) as dispatcher:
        operators = [await dispatcher.operator() for _ in range(3)]
        known = await api.prepare(dispatcher, operators)
        found = await api.attack(dispatcher, known, api.Effort(seed=6, examples=6))
        for operator in operators:
            await operator.close()
    assert found.good, "\n".join([found.report, *found.marks])
    tested = re.search(r"Tested: (\d+)", found.report)
    assert tested is not None
    assert int(tested[1]) > 30, found.report


@pytest.mark.timeout(120)
async def test_hostile_operators_harm_nobody(tmp_path: Path, new_database: NewDatabase) -> None:
    async with dispatcher_process(tmp_path, await new_database("dispatcher")) as dispatcher:
        outcome = await attack_dispatcher(dispatcher, 450, seed=6)
    assert outcome.problems == [], str(outcome)
    assert outcome.sent.total() >= 450
    assert outcome.told[400] > 150, str(outcome)


def test_what_is_wrong_is_told() -> None:
    outcome = Outcome("dispatcher", memory=[0, 1 << 20, 200 << 20], files=[9, 40])
    outcome.honest.update({"completed": 3, "failed nobody answered": 1})
    outcome.judge(-6, '{"event": "x"}\n{"event": "Task was destroyed but it is pending!"}')
    assert [problem.split(":")[0] for problem in outcome.problems] == [
        "it ended with status -6",
        '{"event"',
        "it grew by 199 MiB",
        "it keeps 31 more files open",
        "honest jobs ended otherwise",
    ]
    assert "FAILED: it ended with status -6" in str(outcome)
    assert marks("an honest line") == []


def test_known_values_come_into_half_of_the_requests() -> None:
    known = {"job_id": ["known"], "model": ["tiny.gguf"]}
    changed = [with_known({"job_id": str(n), "job": {"model": "x"}, "tag": ""}, known) for n in range(200)]
    assert 70 < sum(each["job_id"] == "known" for each in changed) < 130
    assert 70 < sum(each["job"]["model"] == "tiny.gguf" for each in changed) < 130
    assert {each["tag"] for each in changed} == {""}
    assert with_known([1], known) == [1]


@pytest.mark.parametrize("seed", range(20))
def test_mutants_repeat_and_leave_the_original_alone(seed: int) -> None:
    said = {"a": 1, "b": {"c": ["x", {"d": None}], "e": ""}, "f": [True, 1.5]}
    text = '{"id":"1","method":"draw"}'
    before = repr(said)
    first = [
        f(random.Random(seed), v) for f, v in ((bent, said), (garbled, text), (pieces, text), (wire, text))
    ]
    again = [
        f(random.Random(seed), v) for f, v in ((bent, said), (garbled, text), (pieces, text), (wire, text))
    ]
    assert first == again
    assert repr(said) == before
    assert "".join(pieces(random.Random(seed), text)) == text
    assert len(places(said)) == 10
    assert JUNK
