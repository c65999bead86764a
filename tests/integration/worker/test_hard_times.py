"""Damaged model files, a full disk, no memory: the worker says why, and goes on or is gone in good order."""

import faulthandler
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import httpx
import pytest
from tests.integration.worker.conftest import RunningWorker, StartWorker

from aos_inference import rehearsal
from aos_inference.errors import ContextTooLarge, ModelUnreadable
from fuzz.gguf_mutations import mutant, take_apart

ROOT = Path(__file__).resolve().parents[3]
ABORTING = "1/64"
"""The seed of a mutant that llama.cpp aborts on: a negative epsilon."""
JOB: dict[str, Any] = {
    "model": "demo",
    "prompt": "What is AI?",
    "seed": "cd" * 32,
    "prover": "me",
    "params": {"max_tokens": 8},
}


def generate(client: httpx.Client) -> httpx.Response:
    return client.post("/v1/generate", json=JOB)


def test_spoilt_model_files_are_served_or_refused_with_a_reason() -> None:
    """A short run of python -m tests.fuzz.gguf, in a process of its own: there, no thread runs when it forks."""
    command = [sys.executable, "-m", "tests.fuzz.gguf", "--files", "25", "--seed", "1"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    for outcome in ("served", "refused by llama.cpp", "is truncated"):
        assert outcome in ended.stdout


def test_a_file_that_llama_cpp_aborts_on_is_named_with_its_words(
    start_worker: StartWorker, demo_model: Path, tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(mutant(take_apart(demo_model.read_bytes()), ABORTING)[1])
    worker = start_worker("--uds", str(tmp_path / "socket"), model=damaged)
    assert worker.exit_code() == 1
    said = "".join(worker.lines)
    assert f"llama.cpp crashes on {damaged} (SIGABRT: ops.cpp" in said
    assert "GGML_ASSERT(eps >= 0.0f) failed). It is damaged" in said
    assert "Traceback" not in said
    assert not (tmp_path / "socket").exists()


class TestRehearsal:
    PATH = Path("model.gguf")

    def test_what_the_child_ends_of_by_itself_is_left_to_the_worker(self) -> None:
        def load() -> NoReturn:
            raise ModelUnreadable("no model")

        rehearsal.rehearse(self.PATH, load)

    def test_a_kill_tells_of_memory(self) -> None:
        with pytest.raises(ContextTooLarge, match=r"memory ran out while model.gguf was loaded \(SIGKILL"):
            rehearsal.rehearse(self.PATH, lambda: die(signal.SIGKILL))

    def test_so_does_an_allocation_that_fails(self) -> None:
        said = b"terminate called\n  what():  std::bad_alloc\n"
        with pytest.raises(ContextTooLarge, match=r"what\(\):  std::bad_alloc\)\. Free some"):
            rehearsal.rehearse(self.PATH, lambda: die(signal.SIGABRT, said))

    def test_any_other_end_tells_of_the_file_without_folders_of_the_build(self) -> None:
        said = b"loading\n/tmp/build-1/src/llama.cpp:12: GGML_ASSERT(n > 0) failed\n"
        with pytest.raises(ModelUnreadable, match=r"\(SIGSEGV: llama.cpp:12: GGML_ASSERT\(n > 0\) failed\)"):
            rehearsal.rehearse(self.PATH, lambda: die(signal.SIGSEGV, said))

    def test_a_silent_end_is_told_as_such(self) -> None:
        with pytest.raises(ModelUnreadable, match="it said nothing"):
            rehearsal.rehearse(self.PATH, lambda: die(signal.SIGFPE))


def die(number: signal.Signals, said: bytes = b"") -> NoReturn:
    """End this process as a crash does, without pytest's own report of it."""
    faulthandler.disable()
    os.write(2, said)
    os.kill(os.getpid(), number)
    raise AssertionError


def limited(limit: int, command: list[str]) -> list[str]:
    """A command line that runs another with this many bytes of data at most."""
    code = f"import os,resource,sys; resource.setrlimit(resource.RLIMIT_DATA, ({limit},)*2); os.execv(sys.argv[1], sys.argv[1:])"
    return [sys.executable, "-c", code, *command]


def test_caches_that_the_system_does_not_grant_end_the_start_with_a_reason(
    demo_model: Path, worker_environment: dict[str, str], tmp_path: Path
) -> None:
    program = [str(Path(sys.executable).parent / "inference-worker"), "--model", str(demo_model)]
    size = ["--uds", str(tmp_path / "socket"), "--context", "1024", "--slots", "48", "--threads", "1"]
    worker = RunningWorker(limited(150 << 20, [*program, *size]), worker_environment)
    try:
        assert worker.exit_code() == 1
    finally:
        worker.close()
    said = "".join(worker.lines)
    assert "failed to allocate" in said or "memory ran out" in said, said
    assert "ower --context or --slots" in said
    assert "Traceback" not in said


def test_a_request_that_finds_no_memory_fails_with_that_reason_and_the_next_is_served(
    start_worker: StartWorker,
) -> None:
    worker = start_worker("--port", "0", "--name", "demo", "--threads", "1")
    large = {**JOB, "items": [{"prompt": "x", "text": "x" * (15 << 20), "params": {}, "subject": "0" * 64}]}
    with worker.client() as client:
        assert generate(client).status_code == 200
        limit = data_of(worker.process.pid) + (20 << 20)
        resource.prlimit(worker.process.pid, resource.RLIMIT_DATA, (limit, resource.RLIM_INFINITY))
        refused = [client.post("/v1/score", json=large) for _ in range(3)]
        assert [answer.status_code for answer in refused] == [500] * 3
        assert all("no memory left for this request" in answer.json()["message"] for answer in refused)
        resource.prlimit(worker.process.pid, resource.RLIMIT_DATA, (resource.RLIM_INFINITY,) * 2)
        assert generate(client).status_code == 200
        # Nothing of those bodies counts as held: this one is read whole, and refused for what it says.
        assert client.post("/v1/score", json=large).status_code == 422
    worker.process.terminate()
    assert worker.exit_code() == 0
    assert len(worker.events("out of memory")) == 3


def data_of(pid: int) -> int:
    """Bytes that count against RLIMIT_DATA."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmData")).split()[1]) * 1024


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB, already full."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system takes root")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        with pytest.raises(OSError, match="No space left"):
            (folder / "ballast").write_bytes(bytes(2 << 20))
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_full_disk_costs_the_log_and_the_remembered_digest_only(
    small_disk: Path, worker_environment: dict[str, str], demo_model: Path, tmp_path: Path
) -> None:
    log, path = small_disk / "worker.log", tmp_path / "socket"
    program = [str(Path(sys.executable).parent / "inference-worker"), "--model", str(demo_model)]
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [*program, "--uds", str(path), "--name", "demo", "--threads", "1"],
            stderr=stderr,
            env=worker_environment | {"XDG_CACHE_HOME": str(small_disk / "cache")},
        )
    try:
        until_there(path, process)
        transport = httpx.HTTPTransport(uds=str(path))
        with httpx.Client(transport=transport, base_url="http://worker", timeout=30) as client:
            assert generate(client).status_code == 200
            (small_disk / "ballast").unlink()
            assert generate(client).status_code == 200
        process.terminate()
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
    assert '"event": "generated"' in log.read_text()
    assert [each for each in small_disk.rglob("*") if each.is_file()] == [log]


def until_there(path: Path, process: subprocess.Popen[bytes]) -> None:
    """Wait until somebody listens there; the log, which says so elsewhere, is on the full disk."""
    while process.poll() is None:
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(path)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError("the worker has ended")
