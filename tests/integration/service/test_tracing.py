"""Spans on their way: to a receiver that is there, and to one that is not."""

import asyncio
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from aos_service.tracing import Where, ended, exporting, sending_to, span, where
from support.otlp import receiving

JOB = "8d969eef6ecad3c29a3a629280e686cf0c3f5d5a86aff3ca12020c923adc6c92"


def work() -> None:
    """What a process does for a job: two spans, of which one fails."""
    ended("submit", where(JOB, "submit"), 1)
    with pytest.raises(KeyError), span("round", parent=where(JOB, "submit"), tag="", asked=3):
        raise KeyError("a prompt")


async def test_what_was_traced_arrives_at_the_latest_when_the_process_ends() -> None:
    async with receiving() as receiver:

        def run() -> None:
            with exporting("dispatcher", receiver.url + "/"):
                work()

        await asyncio.to_thread(run)
        await receiver.until(lambda: len(receiver.spans) == 2)
        submit, round_ = receiver.of(JOB)
    assert (submit.service, submit.name, submit.parent, submit.failed) == (
        "aos-dispatcher",
        "submit",
        "",
        False,
    )
    assert (round_.name, round_.parent, round_.failed) == ("round", submit.id, True)
    assert round_.attributes.keys() == {"aos.tag", "aos.asked"}
    assert b"a prompt" not in receiver.raw


def test_another_process_names_the_same_place() -> None:
    """The id that a dispatcher gives its call is the one that an operator puts its task below."""
    asked = f"where({JOB!r}, '', 0, 'dispatch_job', '0xAb')"
    program = f"from aos_service.tracing import *\nwith sending_to(lambda *_: None): print({asked})"
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    with sending_to(lambda *_: None):
        assert said.strip() == repr(where(JOB, "", 0, "dispatch_job", "0xAb"))


@pytest.fixture
def nobody() -> Iterator[str]:
    """The URL of a port that is taken and not listened on."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{holder.getsockname()[1]}"


def test_a_receiver_that_is_away_keeps_no_process_from_ending(nobody: str) -> None:
    """Not for as long as all that waits would take: the test's own time is the bound."""
    with exporting("dispatcher", nobody):
        for _ in range(5000):
            ended("submit", Where(1, 2), 1)
    assert where(JOB) is None
