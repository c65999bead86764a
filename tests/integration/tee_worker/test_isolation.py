"""What an isolated process still can do, tried in one: as root, as a user without any privilege, and with each layer alone.

The same attempts succeed in a process that was not isolated, so that each of these tests can fail.
"""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest

from aos_tee_worker import isolation

CONFINED = Path(__file__).with_name("confined.py")
NOBODY = 65534
ROOT = os.geteuid() == 0
LIMIT = 400 << 20
BODY = {
    "model": "demo",
    "prompt": "Once upon a time",
    "params": {"max_tokens": 8},
    "seed": "11" * 32,
    "prover": "0x" + "00" * 20,
}
USERS = [pytest.param(None, id="as-we-are")]
if ROOT:
    USERS.append(pytest.param(NOBODY, id="unprivileged"))


class Confined:
    """A confined process: its report, and what comes of attempts in it."""

    def __init__(self, process: subprocess.Popen[str], address: tuple[str, int]) -> None:
        assert process.stdout is not None
        self.process, self._address = process, address
        said = process.stdout.readline()
        assert said, "it ended before it could report"
        self.report = isolation.Report(**json.loads(said))

    def tries(self, *attempt: object) -> str:
        """What comes of it: "did", or the error."""
        with (
            socket.create_connection(self._address, timeout=30) as connection,
            connection.makefile("rw") as stream,
        ):
            stream.write(json.dumps([str(each) for each in attempt]) + "\n")
            stream.flush()
            return stream.read()

    def has(self, layer: str) -> bool:
        """Whether this layer is in force; otherwise it must say why not."""
        held = any(line.startswith(f"{layer}: ") for line in self.report.in_force)
        assert held or any(line.startswith(f"{layer}: ") for line in self.report.not_in_force)
        return held

    def end(self) -> int:
        """Have it end, and return its exit status."""
        self.tries()
        return self.process.wait(30)


@contextmanager
def confined(
    *,
    uid: int | None = None,
    readable: Sequence[Path] = (),
    memory_limit: int | None = LIMIT,
    without: Sequence[str] = (),
    model: Path | None = None,
    free: bool = False,
) -> Iterator[Confined]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        orders: dict[str, Any] = {
            "uid": uid,
            "listener": listener.fileno(),
            "readable": [str(path) for path in readable],
            "memory_limit": memory_limit,
            "without": list(without),
            "model": str(model) if model else None,
            "free": free,
        }
        process = subprocess.Popen(
            [sys.executable, "-P", str(CONFINED), json.dumps(orders)],
            pass_fds=[listener.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        with process:
            try:
                yield Confined(process, listener.getsockname())
            finally:
                process.kill()


@pytest.fixture
def outside() -> Iterator[tuple[str, int]]:
    """A server that must hear nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()


@pytest.fixture
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in which every user may do anything, by its permissions."""
    folder = (
        Path(os.path.realpath("/tmp")) / f"aos-isolation-{os.getpid()}-{tmp_path_factory.getbasetemp().name}"
    )
    folder.mkdir()
    folder.chmod(0o777)
    for name in ("model.gguf", "secret"):
        (folder / name).write_text("untouched")
        (folder / name).chmod(0o666)
    yield folder
    for path in folder.iterdir():
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()


def network_attempts(outside: tuple[str, int], unix: Path) -> list[tuple[object, ...]]:
    return [("connect", *outside), ("send_datagram", *outside), ("connect_unix", unix), ("listen",)]


def file_attempts(shared: Path) -> list[tuple[object, ...]]:
    return [
        ("write", shared / "model.gguf"),
        ("read", shared / "secret"),
        ("create", shared / "new"),
        ("make_folder", shared / "folder"),
        ("delete", shared / "secret"),
    ]


@pytest.fixture
def unix(shared: Path) -> Iterator[Path]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(shared / "socket"))
        (shared / "socket").chmod(0o777)
        listener.listen()
        yield shared / "socket"


class TestNothingIsolated:
    """Without isolation everything is possible that is refused below: the attempts themselves are sound."""

    @pytest.mark.parametrize("uid", USERS)
    def test_everything_is_done(
        self, uid: int | None, outside: tuple[str, int], unix: Path, shared: Path
    ) -> None:
        with confined(uid=uid, free=True) as process:
            for attempt in (*network_attempts(outside, unix), *file_attempts(shared)):
                assert process.tries(*attempt) == "did", attempt
            assert process.tries("run", "/bin/true") == "did"
            assert process.tries("take_memory", 1024) == "did"
            if uid is None:
                assert process.tries("signal", os.getpid()) == "did"
                assert process.tries("environment", os.getpid()) == "did"
            assert process.end() == 0


@pytest.mark.parametrize("uid", USERS)
class TestIsolated:
    def test_every_layer_is_in_force_or_says_why_not(self, uid: int | None) -> None:
        with confined(uid=uid) as process:
            layers = ("namespaces", "no_new_privs", "capabilities", "dumpable", "RLIMIT_CORE", "RLIMIT_DATA")
            held = [process.has(layer) for layer in (*layers, "Landlock", "seccomp")]
            assert all(held[1:6])
            assert len(process.report.in_force) + len(process.report.not_in_force) == 8
            assert process.end() == 0

    def test_no_network_leads_out(self, uid: int | None, outside: tuple[str, int], unix: Path) -> None:
        with confined(uid=uid) as process:
            if not process.has("seccomp"):
                pytest.skip(f"this kernel has no seccomp filter: {process.report.not_in_force}")
            for attempt in network_attempts(outside, unix):
                assert process.tries(*attempt) == "EPERM", attempt

    def test_no_file_is_written_and_none_read_but_those_named(self, uid: int | None, shared: Path) -> None:
        with confined(uid=uid, readable=[shared / "model.gguf"]) as process:
            if not process.has("Landlock"):
                pytest.skip(f"this kernel has no Landlock: {process.report.not_in_force}")
            for attempt in file_attempts(shared):
                assert process.tries(*attempt) == "EACCES", attempt
            assert process.tries("read", shared / "model.gguf") == "did"
            assert process.tries("read", "/etc/passwd") == "EACCES"
            assert process.tries("null") == "did"
        assert (shared / "model.gguf").read_text() == "untouched"

    def test_no_program_is_started_and_no_process_touched(self, uid: int | None) -> None:
        with subprocess.Popen(["/bin/sleep", "60"], user=uid, group=uid) as neighbour:
            with confined(uid=uid) as process:
                assert process.tries("run", "/bin/true") in {"EPERM", "EACCES"}
                assert process.tries("trace", neighbour.pid) == "EPERM"
                assert process.tries("environment", neighbour.pid) == "EACCES"
                assert process.tries("overwrite_memory", neighbour.pid) == "EACCES"
                if "no signals" in "".join(process.report.in_force):
                    assert process.tries("signal", neighbour.pid) == "EPERM"
            neighbour.kill()

    def test_no_privilege_is_left(self, uid: int | None) -> None:
        with confined(uid=uid) as process:
            assert process.tries("change_host_name") == "EPERM"
            # In its namespace no user is root.
            assert process.tries("become_root") in {"EPERM", "EINVAL"}

    def test_memory_ends_at_the_limit(self, uid: int | None) -> None:
        with confined(uid=uid) as process:
            assert process.tries("take_memory", 100) == "did"
            assert process.tries("take_memory", 400) == "MemoryError"
            assert process.tries("take_memory", 100) == "did"

    def test_it_still_dies_with_its_supervisor(self, uid: int | None) -> None:
        with confined(uid=uid) as process:
            assert process.tries("die_with_parent") == "did"

    def test_a_socketpair_still_works_which_event_loops_need(self, uid: int | None) -> None:
        with confined(uid=uid) as process:
            assert process.tries("talk_to_itself") == "did"

    def test_it_serves_a_model_on_the_socket_that_it_inherited(
        self, uid: int | None, demo_model: Path
    ) -> None:
        with confined(uid=uid, readable=[demo_model], model=demo_model) as process:
            host, port = process._address
            with httpx.Client(base_url=f"http://{host}:{port}", timeout=30) as client:
                answer = client.post("/v1/generate", json=BODY)
                assert answer.status_code == 200, answer.text
                assert answer.json()["usage"]["completion_tokens"] == 8
                assert (
                    client.get("/v1/models").json()["models"][0]["sha256"]
                    == sha256(demo_model.read_bytes()).hexdigest()
                )
            process.process.terminate()
            assert process.process.wait(30) == 0


class TestEachLayerAlone:
    """What a kernel gives that has only this one."""

    def test_a_network_namespace_has_nobody_in_it(self, outside: tuple[str, int]) -> None:
        with confined(without=["Landlock", "seccomp"]) as process:
            if not process.has("namespaces"):
                pytest.skip(f"no namespaces here: {process.report.not_in_force}")
            assert process.tries("connect", *outside) == "ENETUNREACH"
            assert process.tries("send_datagram", *outside) == "ENETUNREACH"

    def test_landlock_knows_tcp(self, outside: tuple[str, int]) -> None:
        with confined(without=["namespaces", "seccomp"]) as process:
            if "no TCP" not in "".join(process.report.in_force):
                pytest.skip(f"no Landlock of ABI 4 here: {process.report}")
            assert process.tries("connect", *outside) == "EACCES"
            assert process.tries("listen") == "EACCES"

    def test_seccomp_makes_no_sockets(self, outside: tuple[str, int], unix: Path) -> None:
        with confined(without=["namespaces", "Landlock"]) as process:
            if not process.has("seccomp"):
                pytest.skip(f"no seccomp here: {process.report.not_in_force}")
            for attempt in network_attempts(outside, unix):
                assert process.tries(*attempt) == "EPERM", attempt
            assert process.tries("run", "/bin/true") == "EPERM"

    def test_what_the_kernel_lacks_is_reported_and_the_rest_holds(self, shared: Path) -> None:
        with confined(without=["namespaces", "Landlock"], memory_limit=None) as process:
            lacking = dict(line.split(": ", 1) for line in process.report.not_in_force)
            assert lacking.keys() >= {"namespaces", "Landlock", "RLIMIT_DATA"}
            assert lacking["Landlock"] == "[Errno 38] not in this kernel"
            assert lacking["RLIMIT_DATA"] == "no memory limit was given"
            assert process.has("capabilities")
            assert process.tries("write", shared / "model.gguf") == "did"


def test_a_worker_that_needs_more_than_its_limit_ends(demo_model: Path) -> None:
    with confined(readable=[demo_model], model=demo_model, memory_limit=64 << 20) as process:
        assert process.process.wait(30) == 1


def test_a_thread_that_runs_already_is_refused() -> None:
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        with pytest.raises(RuntimeError, match="before any thread"):
            isolation.isolate([])
    finally:
        stop.set()
        thread.join()
