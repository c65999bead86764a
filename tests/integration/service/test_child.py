import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aos_service.child import Child
from aos_service.errors import ChildError
from aos_service.tether import tied

# A child that writes READY and waits; what it does with SIGTERM is added by each test.
WAITING = """
import os, signal, sys
{on_term}
print("ready", os.getpid(), flush=True)
while True:
    signal.pause()
"""
POLITE = WAITING.format(on_term="signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))")
STUBBORN = WAITING.format(on_term="signal.signal(signal.SIGTERM, signal.SIG_IGN)")


def python(code: str) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", code]


@pytest.fixture
async def started(tmp_path: Path) -> AsyncIterator[list[Child]]:
    """Children to be stopped after the test, whatever it does."""
    children: list[Child] = []
    yield children
    for child in children:
        await child.stop()


def says(child: Child, text: str):  # noqa: ANN201 (a closure for until_ready)
    async def check() -> bool:
        return text in child.log.read_text()

    return check


async def start(started: list[Child], tmp_path: Path, code: str, **options: object) -> Child:
    child = Child("the child", python(code), log=tmp_path / "child.log", **options)  # type: ignore[arg-type]
    started.append(child)
    child.start()
    await child.until_ready(says(child, "ready"), timeout_s=20)
    return child


def gone(pid: int) -> bool:
    """Whether the process ended: it is no more, or a zombie that its parent has not asked about."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


async def until_gone(pid: int) -> None:
    async with asyncio.timeout(20):
        while not gone(pid):
            await asyncio.sleep(0.01)


async def test_a_child_is_stopped_politely(started: list[Child], tmp_path: Path) -> None:
    child = await start(started, tmp_path, POLITE)
    pid = child.pid
    assert pid is not None
    assert child.returncode is None
    await child.stop()
    assert gone(pid)
    assert child.pid is None
    await child.stop()


async def test_a_child_that_does_not_listen_is_killed(started: list[Child], tmp_path: Path) -> None:
    child = await start(started, tmp_path, STUBBORN, stop_timeout_s=0.1)
    pid = child.pid
    assert pid is not None
    await child.stop()
    assert gone(pid)


async def test_stopping_stays_certain_when_it_is_cancelled(started: list[Child], tmp_path: Path) -> None:
    child = await start(started, tmp_path, STUBBORN)
    pid = child.pid
    assert pid is not None
    stopping = asyncio.create_task(child.stop())
    await asyncio.sleep(0)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    assert gone(pid)


async def test_the_command_keeps_its_process_id_and_is_in_a_group_of_its_own(
    started: list[Child], tmp_path: Path
) -> None:
    child = await start(started, tmp_path, POLITE)
    assert child.log.read_text() == f"ready {child.pid}\n"
    assert os.getpgid(child.pid or 0) == child.pid
    assert os.getsid(child.pid or 0) == child.pid


async def test_a_child_that_ends_before_it_is_ready(tmp_path: Path) -> None:
    child = Child("worker", python("import sys; print('no model'); sys.exit(3)"), log=tmp_path / "worker.log")
    child.start()
    with pytest.raises(
        ChildError, match=r"worker ended with status 3. Its log, .*worker.log, ends:\n  no model"
    ):
        await child.until_ready(says(child, "ready"), timeout_s=20)
    assert await child.until_ended() == 3
    await child.stop()


async def test_a_child_that_is_never_ready(started: list[Child], tmp_path: Path) -> None:
    child = await start(started, tmp_path, POLITE)
    with pytest.raises(
        ChildError, match=r"the child was not ready within 0.05 s. Its log, .* ends:\n  ready"
    ):
        await child.until_ready(says(child, "something else"), timeout_s=0.05)


async def test_a_command_that_does_not_exist(tmp_path: Path) -> None:
    child = Child("worker", [str(tmp_path / "missing")], log=tmp_path / "worker.log")
    child.start()
    assert await child.until_ended() == 1
    assert child.log.read_text() == f"{tmp_path / 'missing'}: No such file or directory\n"


async def test_the_log_of_the_run_before_is_kept(tmp_path: Path) -> None:
    child = Child(
        "worker",
        python("import os; print(os.environ['RUN'])"),
        log=tmp_path / "worker.log",
        environment={"RUN": "1"},
    )
    child.start()
    await child.until_ended()
    again = Child("worker", python("print(2)"), log=tmp_path / "worker.log")
    again.start()
    await again.until_ended()
    assert (tmp_path / "worker.log.1").read_text() == "1\n"
    assert (tmp_path / "worker.log").read_text() == "2\n"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux signals a child when its parent dies")
@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
async def test_a_child_goes_when_its_parent_is_killed(kill: signal.Signals, tmp_path: Path) -> None:
    parent_code = f"""
import subprocess, sys
sys.path[:0] = {sys.path!r}
from aos_service.tether import tied
child = subprocess.Popen(tied({python(POLITE)!r}), stdout=subprocess.PIPE, start_new_session=True)
print(child.stdout.readline().decode(), flush=True)
child.wait()
"""
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", parent_code, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    assert parent.stdout is not None
    pid = int((await parent.stdout.readline()).split()[1])
    assert not gone(pid)
    parent.send_signal(kill)
    await parent.wait()
    await until_gone(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux signals a child when its parent dies")
async def test_a_child_whose_parent_is_already_dead_does_not_start() -> None:
    command = tied(python("print('started')"))
    command[command.index(str(os.getpid()))] = "1"  # as if the process that asked for it had died meanwhile
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    assert await process.communicate() == (b"", b"the parent died before its child started\n")
    assert process.returncode == 1
