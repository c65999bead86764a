"""The installed commands of this project, and running one of them to its end."""

import asyncio
import os
import signal
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from aos_cli.failures import StackError
from aos_service.tether import tied

_LAST_LINES = 10


def program(name: str) -> str:
    """The path of one of our commands, beside the Python that runs.

    Raises:
        StackError: when it is not installed there.
    """
    path = Path(sysconfig.get_path("scripts")) / name
    if not path.is_file():
        raise StackError(f"{path} is missing: install aos with the extra `all` into this environment")
    return str(path)


async def run_command(name: str, *arguments: str) -> str:
    """Run one of our commands to its end and return what it printed; it dies with us, and when this is cancelled.

    Its output goes into no file, since it may be a token.

    Raises:
        StackError: when it fails; the message ends with what it said on stderr.
    """
    process = await asyncio.create_subprocess_exec(
        *tied([program(name), *arguments]),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        output, errors = await process.communicate()
    except BaseException:
        if process.returncode is None:
            os.killpg(
                process.pid, signal.SIGKILL
            )  # and what it started: asyncio waits for whoever holds its pipes
            await asyncio.shield(process.wait())
        raise
    if process.returncode != 0:
        raise StackError(
            f"{name} {_shown(arguments)} failed with status {process.returncode}: {_tail(errors)}"
        )
    return output.decode()


def _shown(arguments: Sequence[str]) -> str:
    return " ".join(arguments)


def _tail(output: bytes) -> str:
    return "\n".join(output.decode(errors="replace").strip().splitlines()[-_LAST_LINES:])
