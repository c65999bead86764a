"""`aos demo`, to its end and not."""

import re
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from acceptance.processes import Program, left_of, run_aos

CHECKS = [
    "AOS-PIN-1",
    "AOS-REQUEST-1",
    "AOS-JOB-1",
    "AOS-RECEIPT-1",
    "AOS-SEED-1",
    "AOS-TICKET-1",
    "AOS-COMMITTEE-1",
    "AOS-RESULT-1",
    "AOS-CLOCK-1",
    "AOS-MODEL-1",
    "AOS-COMPLETE-1",
    "AOS-ANSWER-1",
    "AOS-FILE-1",
]


@pytest.fixture
def temporary() -> Iterator[Path]:
    """The folder that the demo makes its own in."""
    with tempfile.TemporaryDirectory(prefix="aos-test-") as folder:
        Path(folder).chmod(0o711)
        yield Path(folder)


@pytest.fixture
def demo(temporary: Path) -> Iterator[Program]:
    with Program("aos", "demo", environment={"TMPDIR": str(temporary)}) as program:
        yield program


def test_the_demo_answers_checks_and_leaves_nothing(demo: Program, temporary: Path) -> None:
    demo.read_until("submit")
    family = demo.family()
    assert demo.wait() == 0, demo.output
    table = [line.split()[:2] for line in demo.lines if re.match("PASS|FAIL|SKIP", line)]
    assert table == [["PASS", name] for name in CHECKS]
    assert re.search(r"^0x\w{40}\n\w.{40,}", demo.output, re.MULTILINE)
    for phase in ("PostgreSQL", "worker", "dispatcher", "operators", "submit", "job", "check", "stop"):
        assert re.search(rf"^  {phase} +\d+\.\d s", demo.output, re.MULTILINE)
    assert demo.lines[-1].endswith("s in all; everything is stopped")
    assert left_of(family) == []
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(
    ("line", "number"), [("Valkey", signal.SIGINT), ("project", signal.SIGTERM)], ids=["early", "late"]
)
def test_a_signal_in_the_middle_leaves_nothing(
    demo: Program, temporary: Path, line: str, number: signal.Signals
) -> None:
    demo.read_until(line)
    family = demo.family()
    assert len(family) > 3
    assert demo.interrupt(number) == 128 + number
    assert demo.lines[-1] == f"stopped by {number.name}; nothing is left running"
    assert left_of(family) == []
    assert list(temporary.iterdir()) == []


def test_a_killed_demo_takes_its_processes_along(demo: Program) -> None:
    demo.read_until("dispatcher")
    family = demo.family()
    assert len(family) > 5
    demo.process.kill()
    assert left_of(family) == []


def test_a_model_file_that_is_not_there(tmp_path: Path) -> None:
    said = run_aos("demo", "--model", str(tmp_path / "none.gguf"))
    assert said.returncode == 1
    assert said.stderr.startswith(
        f"error: there is no model file {tmp_path}/none.gguf: give another with --model"
    )


def test_a_file_that_is_no_model_is_refused_by_the_worker_in_its_own_words(tmp_path: Path) -> None:
    model = tmp_path / "text.gguf"
    model.write_text("no model at all")
    with Program("aos", "demo", "--model", str(model)) as demo:
        assert demo.wait() == 1
        assert "error: worker ended with status 1. Its log, " in demo.output
        assert f"{model} is no GGUF file" in demo.output
