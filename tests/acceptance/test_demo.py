"""`aos demo`, to its end and not; and `aos up` on what it kept."""

import os
import re
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from acceptance.processes import CHECKS, Program, left_of, run_aos, shown

DEMO_CHECKS = [CHECKS[0], "AOS-REQUEST-1", *CHECKS[1:], "AOS-FILE-1", "AOS-CALIBRATION-1"]


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


@pytest.fixture(scope="module")
def kept() -> Iterator[Path]:
    """A data folder that outlives the command that filled it."""
    with tempfile.TemporaryDirectory(prefix="aos-test-") as folder:
        Path(folder).chmod(0o711)
        yield Path(folder) / "data"


def test_the_demo_answers_checks_and_leaves_nothing_running(kept: Path) -> None:
    with Program("aos", "demo", "--keep", str(kept)) as demo:
        demo.read_until("submit")
        family = demo.family()
        assert demo.wait() == 0, demo.output
    assert checks_of(demo) == dict.fromkeys(DEMO_CHECKS, "PASS")
    assert re.search(r"^0x\w{40}\n\w.{40,}", demo.output, re.MULTILINE)
    assert re.search(
        # Lot now and then selects more than the one verifier of an audit.
        r"^the job, audited\n0x\w{40}  executor +\n(0x\w{40}  verifier +match  .+\n)+verdict: match\. ",
        demo.output,
        re.MULTILINE,
    )
    assert re.search(r"^  model .* calibrated$", demo.output, re.MULTILINE)
    for phase in ("PostgreSQL", "worker", "dispatcher", "operators", "submit", "job", "check", "stop"):
        assert re.search(rf"^  {phase} +\d+\.\d s", demo.output, re.MULTILINE)
    assert demo.lines[-1].endswith(f"s in all; everything is stopped, its data is in {kept}")
    assert left_of(family) == []


def checks_of(demo: Program) -> dict[str, str]:
    """The table of checks: each check's status, in the table's order."""
    rows = [line.split()[:2] for line in demo.lines if re.match("PASS|FAIL|SKIP", line)]
    found = {name: status for status, name in rows}
    assert (list(found), len(rows)) == (DEMO_CHECKS, len(DEMO_CHECKS))
    return found


def test_a_model_without_a_calibration_is_run_and_nothing_is_proven(demo_model: Path, tmp_path: Path) -> None:
    model = tmp_path / demo_model.name
    model.symlink_to(demo_model)
    with Program("aos", "demo", "--model", str(model)) as demo:
        assert demo.wait() == 1
    checks = checks_of(demo)
    assert {name for name, status in checks.items() if status == "SKIP"} == {
        "AOS-MATCH-1",
        "AOS-CALIBRATION-1",
    }
    assert {status for status in checks.values() if status != "SKIP"} == {"PASS"}
    assert re.search(r"verifier +inconclusive +there is no calibration of model ", demo.output)
    calibration = tmp_path / f"{demo_model.stem}.calibration.json"
    assert (
        f"{calibration} is missing, so every verdict will be inconclusive: move on like this, or stop and run "
        f"aos calibrate {model}"
    ) in demo.lines
    assert demo.lines[-1] == "error: not every check passed: this answer is not verified"


def test_up_goes_on_with_kept_data_until_a_part_ends(kept: Path) -> None:
    token = (kept / "token").read_text().strip()
    with Program("aos", "up", "--data", str(kept), "--port", "0", "--operators", "2") as up:
        up.read_until("ready:")
        family, log = up.family(), kept / "logs" / "operator-2.log"
        # The dispatcher counts an operator as connected a moment before that one knows it.
        while "connected to the dispatcher" not in log.read_text():
            time.sleep(0.01)
        os.kill(pid_of("operator-2.yaml", family), signal.SIGKILL)
        assert up.wait() == 1
    said, _, error = up.output.partition("error: ")
    assert token not in said
    assert not re.search("^  (keys|project) ", said, re.MULTILINE)
    assert error.startswith(f"operator-2 ended with status -9. Its log, {log}, ends:\n")
    assert "connected to the dispatcher" in error
    assert left_of(family) == []


def pid_of(argument: str, family: dict[int, str]) -> int:
    [pid] = [pid for pid, said in shown(family, "cmdline").items() if argument.encode() in said]
    return pid


def test_a_signal_in_the_middle_leaves_nothing(demo: Program, temporary: Path) -> None:
    demo.read_until("Valkey")
    family = demo.family()
    assert len(family) > 3
    assert demo.interrupt() == 128 + signal.SIGINT
    assert demo.lines[-1] == "stopped by SIGINT; nothing is left running"
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
