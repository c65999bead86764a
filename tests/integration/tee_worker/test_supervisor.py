"""The supervisor with children that are a few lines of Python: what it does with each way to live and to end."""

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from structlog.testing import capture_logs

from aos_tee_worker.supervisor import Pulse, Restarts, Supervisor, Timing

QUICK = Timing(silence=20.0, start=20.0, stop=20.0, pause=0.01, longest_pause=0.05)
PREFACE = """
import os, signal, sys, time
beat, log, crashed, hung = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
def tell(what):
    with open(log, "a") as file:
        file.write(f"{what} {os.getpid()}\\n")
def live():
    while True:
        os.write(beat, b".")
        time.sleep(0.05)
"""


async def readable(descriptor: int) -> None:
    """Wait until there is something to read, or a process is gone, of which this is the pidfd."""
    loop, came = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(descriptor, came.set)
    try:
        async with asyncio.timeout(20):
            await came.wait()
    finally:
        loop.remove_reader(descriptor)


class Lives:
    """What children have told, in a named pipe that the test reads: waiting for it is waiting for an event."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "lives"
        os.mkfifo(self.path)
        self._fd = os.open(self.path, os.O_RDWR | os.O_NONBLOCK)
        self._text = ""

    async def next(self) -> tuple[str, int]:
        """The next thing that a child told, and its process id."""
        while "\n" not in self._text:
            await readable(self._fd)
            self._text += os.read(self._fd, 4096).decode()
        line, self._text = self._text.split("\n", 1)
        what, pid = line.rsplit(" ", 1)
        return what, int(pid)

    def close(self) -> None:
        os.close(self._fd)


@pytest.fixture
async def lives(tmp_path: Path) -> AsyncIterator[Lives]:
    lives = Lives(tmp_path)
    yield lives
    lives.close()


def supervisor(
    lives: Lives, script: str, timing: Timing = QUICK, inherited: tuple[int, ...] = ()
) -> Supervisor:
    def command(heartbeat: int, restarts: Restarts) -> list[str]:
        counts = (str(restarts.crashed), str(restarts.hung))
        return [sys.executable, "-I", "-S", "-c", PREFACE + script, str(heartbeat), str(lives.path), *counts]

    return Supervisor(command, inherited, timing)


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


async def test_a_stop_is_passed_on_and_waited_for(lives: Lives) -> None:
    script = """
def bye(*_):
    tell("bye"); sys.exit(0)
signal.signal(signal.SIGTERM, bye)
tell("born")
live()
"""
    running = asyncio.create_task(supervisor(lives, script).run())
    what, pid = await lives.next()
    assert what == "born"
    os.kill(os.getpid(), signal.SIGTERM)
    assert await running == 0
    assert await lives.next() == ("bye", pid)
    assert gone(pid)


async def test_one_that_does_not_stop_is_killed(lives: Lives) -> None:
    script = 'signal.signal(signal.SIGTERM, signal.SIG_IGN); tell("born"); live()'
    running = asyncio.create_task(supervisor(lives, script, Timing(stop=0.1)).run())
    _, pid = await lives.next()
    os.kill(os.getpid(), signal.SIGINT)
    assert await running == 0
    assert gone(pid)


@pytest.mark.parametrize(
    ("end", "status"),
    [("sys.exit(7)", 7), ("sys.exit(0)", 1), ("os.kill(os.getpid(), 9)", 137)],
)
async def test_one_that_cannot_start_ends_it_all(lives: Lives, end: str, status: int) -> None:
    assert await supervisor(lives, f'tell("born"); {end}').run() == status
    await lives.next()
    assert lives._text == ""


async def test_one_that_is_killed_at_its_start_could_not_say_why_and_its_supervisor_does(
    lives: Lives,
) -> None:
    with capture_logs() as logs:
        assert await supervisor(lives, "os.abort()").run() == 134
        assert await supervisor(lives, "sys.exit(7)").run() == 7
    assert [(entry["event"], entry["status"]) for entry in logs] == [
        ("the enclave cannot start", "killed by SIGABRT")
    ]


async def test_one_that_gives_up_at_a_later_start_ends_it_too(lives: Lives) -> None:
    script = """
tell("born")
if crashed: sys.exit(3)
os.write(beat, b"."); os.abort()
"""
    assert await supervisor(lives, script).run() == 3


async def test_a_start_without_end_is_given_up(lives: Lives) -> None:
    assert await supervisor(lives, "time.sleep(600)", Timing(start=0.2)).run() == 137


async def test_crashes_are_counted_and_told_to_the_next_life(lives: Lives) -> None:
    script = """
tell(f"born {crashed} {hung}")
os.write(beat, b".")
if crashed == 0: os.kill(os.getpid(), signal.SIGSEGV)
if crashed == 1: sys.exit(0)
live()
"""
    running = asyncio.create_task(supervisor(lives, script).run())
    told = [await lives.next() for _ in range(3)]
    assert [what for what, _ in told] == ["born 0 0", "born 1 0", "born 2 0"]
    assert len({pid for _, pid in told}) == 3
    os.kill(os.getpid(), signal.SIGTERM)
    assert await running == 0


async def test_a_kill_before_the_first_beat_of_a_later_start_is_a_crash(lives: Lives) -> None:
    script = """
tell(f"born {crashed}")
if crashed == 1: os.kill(os.getpid(), 9)
os.write(beat, b".")
if crashed == 0: os.kill(os.getpid(), 9)
live()
"""
    running = asyncio.create_task(supervisor(lives, script).run())
    assert [(await lives.next())[0] for _ in range(3)] == ["born 0", "born 1", "born 2"]
    os.kill(os.getpid(), signal.SIGTERM)
    assert await running == 0


async def test_silence_is_a_hang(lives: Lives) -> None:
    script = """
tell(f"born {crashed} {hung}")
if not hung:
    os.write(beat, b".")
    os.kill(os.getpid(), signal.SIGSTOP)
live()
"""
    running = asyncio.create_task(supervisor(lives, script, replace(QUICK, silence=0.3)).run())
    _, stopped = await lives.next()
    what, _ = await lives.next()
    assert what == "born 0 1"
    assert gone(stopped)
    os.kill(os.getpid(), signal.SIGTERM)
    assert await running == 0


async def test_beats_keep_it_alive_for_longer_than_the_limit(lives: Lives) -> None:
    script = """
for _ in range(50):
    os.write(beat, b".")
    time.sleep(0.05)
tell(f"lived {hung}")
live()
"""
    running = asyncio.create_task(supervisor(lives, script, Timing(silence=2.0)).run())
    assert (await lives.next())[0] == "lived 0"
    os.kill(os.getpid(), signal.SIGTERM)
    assert await running == 0


async def test_pauses_double_up_to_the_longest(lives: Lives, monkeypatch: pytest.MonkeyPatch) -> None:
    script = 'tell("born"); os.write(beat, b"."); os.abort()'
    said: list[dict[str, object]] = []
    monkeypatch.setattr(
        "aos_tee_worker.supervisor._log.error", lambda _, **more: said.append(more), raising=False
    )
    running = asyncio.create_task(supervisor(lives, script).run())
    for _ in range(6):
        await lives.next()
    os.kill(os.getpid(), signal.SIGTERM)
    assert await running == 0
    assert [each["restarting_in"] for each in said][:5] == [0.01, 0.02, 0.04, 0.05, 0.05]
    assert said[0]["status"] == "killed by SIGABRT"
    assert "sealed again" in str(said[0]["advice"])


async def test_what_is_inherited_stays_open_and_connections_wait(lives: Lives) -> None:
    with socket.socket() as listener, socket.socket() as client:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        client.setblocking(False)
        script = f"""
import socket
tell(f"born {{crashed}}")
os.write(beat, b".")
if not crashed: os.kill(os.getpid(), 9)
socket.socket(fileno={listener.fileno()}).accept()[0].send(b"second life")
live()
"""
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, listener.getsockname())
        running = asyncio.create_task(supervisor(lives, script, inherited=(listener.fileno(),)).run())
        async with asyncio.timeout(20):
            assert await loop.sock_recv(client, 99) == b"second life"
        os.kill(os.getpid(), signal.SIGTERM)
        assert await running == 0


async def test_a_killed_supervisor_takes_it_along(lives: Lives, tmp_path: Path) -> None:
    program = """
import asyncio, sys
from aos_tee_worker.supervisor import Supervisor
script, path = sys.argv[1:]
command = lambda beat, restarts: [sys.executable, "-I", "-S", "-c", script, str(beat), path, "0", "0"]
asyncio.run(Supervisor(command, []).run())
"""
    script = PREFACE + 'signal.signal(signal.SIGTERM, signal.SIG_IGN); tell("born"); live()'
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, script, str(lives.path))
    _, pid = await lives.next()
    ended = os.pidfd_open(pid)
    process.kill()
    await process.wait()
    await readable(ended)
    os.close(ended)


async def test_beats_that_waited_while_the_supervisor_was_held_up_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pulse, now, loop = Pulse(), 0.0, asyncio.get_running_loop()
    monkeypatch.setattr(pulse, "_loop", SimpleNamespace(time=lambda: now, remove_reader=loop.remove_reader))
    os.write(pulse.writing, b".")
    due = asyncio.create_task(pulse.stopped(Timing(silence=0.05)))
    while not pulse.felt:
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    os.write(pulse.writing, b".")
    now = 10.0
    time.sleep(0.1)  # noqa: ASYNC251 (nothing is to run for longer than the limit, as if this process was stopped)
    for _ in range(3):
        await asyncio.sleep(0)
    assert not due.done()
    now = 20.0
    await due  # now there is no further beat
    pulse.started()
    pulse.close()


async def test_a_supervisor_that_is_cancelled_leaves_nothing_behind(lives: Lives) -> None:
    running = asyncio.create_task(supervisor(lives, 'tell("born"); os.kill(os.getpid(), 19)').run())
    _, pid = await lives.next()
    running.cancel()
    await asyncio.wait({running})
    assert running.cancelled()
    assert gone(pid)
