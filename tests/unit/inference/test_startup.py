"""The small parts of starting: memory, progress, and a command line that is wrong."""

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from typer.testing import CliRunner

from aos_inference import loading, main, memory
from aos_inference.errors import ContextTooLarge, ModelUnreadable
from aos_inference.progress import Progress


def test_memory_is_what_linux_says_is_available(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  100 kB\nMemFree:  1 kB\nMemAvailable:  42 kB\n")
    assert memory.available(meminfo) == 42 * 1024
    meminfo.write_text("MemTotal:  100 kB\n")
    assert memory.available(meminfo) is None
    assert memory.available(tmp_path / "absent") is None


def test_caches_that_do_not_fit_are_refused_with_what_would(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda: 2 * 2**30)
    loading._check_memory(2 * 2**30, context=4096, slots=8)
    with pytest.raises(
        ContextTooLarge, match=r"need 8\.0 GiB .* 2\.0 GiB are free\. Give --context 1024 or less"
    ):
        loading._check_memory(8 * 2**30, context=4096, slots=8)
    monkeypatch.setattr(memory, "available", lambda: None)
    loading._check_memory(2**60, context=4096, slots=8)


def test_the_context_is_the_models_within_reason() -> None:
    assert loading._context_length(None, trained=1024) == 1024
    assert loading._context_length(None, trained=131_072) == 4096
    assert loading._context_length(100_000, trained=131_072) == 100_000
    with pytest.raises(ContextTooLarge, match="1,025 exceeds the 1,024"):
        loading._context_length(1025, trained=1024)
    for damaged in (0, -(2**31)):
        with pytest.raises(ModelUnreadable, match=rf"trained for {damaged:,} tokens: it is damaged"):
            loading._context_length(None, trained=damaged)


@pytest.mark.parametrize(("mebibytes", "threads"), [(1, 1), (300, 2), (100_000, 4)])
def test_threads_grow_with_the_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mebibytes: int, threads: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2, 3})
    model = tmp_path / "model.gguf"
    with model.open("wb") as file:
        file.truncate(mebibytes * 2**20)
    assert loading._threads(model) == threads


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("time.monotonic", clock)
    return clock


def test_a_quick_step_prints_nothing(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress("Loading")
    for fraction in (0.1, 0.5, 1.0):
        progress(fraction)
    assert capsys.readouterr().err == ""


def test_a_slow_step_prints_a_line_every_ten_percent(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    progress = Progress("Hashing x")
    for percent in range(101):
        clock.now += 0.25
        progress(percent / 100)
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["Hashing x: 3%", *(f"Hashing x: {tens}%" for tens in range(10, 101, 10))]


def test_on_a_terminal_it_stays_on_its_line(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    progress = Progress("Hashing x")
    clock.now = 2
    progress(0.5)
    progress(0.501)
    progress(1.0)
    assert capsys.readouterr().err == "Hashing x: 50%\rHashing x: 100%\n"


@pytest.fixture
def _restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()


@pytest.mark.usefixtures("_restored_logging")
class TestCommand:
    """Errors that need no model."""

    @staticmethod
    def run(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(main.app, arguments)
        return result.exit_code, result.stderr

    def test_no_such_file(self, tmp_path: Path) -> None:
        code, said = self.run("--model", str(tmp_path / "absent.gguf"))
        assert code == 1
        assert said.startswith("inference-worker: Cannot open")
        assert "Traceback" not in said

    def test_not_a_model(self, tmp_path: Path) -> None:
        path = tmp_path / "page.gguf"
        path.write_text("<html>not found</html>")
        code, said = self.run("--model", str(path))
        assert code == 1
        assert "no GGUF file" in said

    def test_wrong_options(self) -> None:
        assert self.run("--model", "x", "--port", "70000")[0] == 2
        assert self.run("--model", "x", "--slots", "0")[0] == 2
        assert self.run()[0] == 2

    def test_help_shows_an_example(self) -> None:
        result = CliRunner().invoke(main.app, ["--help"])
        assert "inference-worker --model models/" in result.stdout
