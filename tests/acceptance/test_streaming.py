"""A stream from llama.cpp to the client of `aos up`, and what a client that leaves stops: the very steps of the model."""

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from acceptance.processes import ANSWER_S, Network, shown

MOST = 900
TOLD = {"prompt": "Once upon a time", "temperature": 0}
"""Learnt by heart: some dozens of tokens."""

LONG = {"prompt": "Once upon a time", "max_tokens": MOST, "temperature": 2}
"""At this temperature most texts babble on for longer, since few tokens end them."""


@contextmanager
def streaming(network: Network, asked: dict[str, Any]) -> Iterator[tuple[str, Iterator[Any]]]:
    """Ask for a text; the job's id, and the events as they come."""
    token = {"Authorization": f"Bearer {network.token}"}
    url, body = network.url + "/v1/completions", asked | {"model": network.model, "stream": True}
    with (
        httpx.Client(trust_env=False, timeout=ANSWER_S) as client,
        client.stream("POST", url, json=body, headers=token) as response,
    ):
        assert response.status_code == 200, response.read()
        lines = (line.removeprefix("data: ") for line in response.iter_lines() if line.startswith("data: "))
        yield response.headers["x-aos-job-id"], (json.loads(line) for line in lines if line != "[DONE]")


def worker_pid(network: Network) -> int:
    """The process that runs the model."""
    lines = shown(network.program.family(), "cmdline")
    [pid] = [pid for pid, line in lines.items() if b"inference-worker" in line]
    return pid


def load(network: Network, pid: int) -> dict[str, Any]:
    """What the worker says of its load."""
    line = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    socket = line[line.index("--uds") + 1]
    with httpx.Client(transport=httpx.HTTPTransport(uds=socket), timeout=ANSWER_S) as client:
        health: dict[str, Any] = client.get("http://worker/healthz").json()
        return health


def generated(network: Network) -> list[dict[str, Any]]:
    """What the worker has logged of generations that ended, or were given up."""
    log = (network.data / "logs" / "worker.log").read_text()
    entries = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    return [entry for entry in entries if entry["event"] in {"generated", "abandoned"}]


def until(network: Network, count: int) -> dict[str, Any]:
    """Wait for the end of so many generations; the last of them."""
    deadline = time.monotonic() + ANSWER_S
    while len(found := generated(network)) < count:
        assert time.monotonic() < deadline, "the worker goes on"
        time.sleep(0.02)  # a log tells nobody that it grew
    return found[count - 1]


def idle(network: Network) -> int:
    """Wait until the worker does nothing, also not for an earlier test; how many generations have ended, all of which are logged."""
    pid = worker_pid(network)
    while (said := load(network, pid))["active"] or said["queued"]:
        time.sleep(0.02)  # nobody is told
    return len(generated(network))


def test_the_text_comes_piece_by_piece_and_is_the_signed_answer(network: Network) -> None:
    """Whoever reads too late gets what has come meanwhile together: then another text is asked for."""
    for _ in range(20):
        before = idle(network)
        with streaming(network, TOLD) as (job_id, events):
            pieces = [choice["text"] for event in events for choice in event["choices"]]
        rows = network.ask("/api/job/result", {"job_id": job_id})["result"]
        assert {row["result"] for row in rows if row["role"] == "executor"} == {"".join(pieces)}
        assert until(network, before + 1)["event"] == "generated"
        if len([piece for piece in pieces if piece]) > 1:
            return
    pytest.fail("each of 20 texts came as one piece")


def test_a_client_that_leaves_stops_llama_cpp(network: Network) -> None:
    """The worker stands still from the first text on until its operator was told.

    Where the text was over or far on by then, since the processors are busy, that is no case, and there is another.
    """
    while (ended := left_in_the_middle(network))["event"] != "abandoned" or ended[
        "completion_tokens"
    ] > MOST // 2:
        pass
    assert ended["finish_reason"] is None
    assert load(network, worker_pid(network))["active"] == 0


def left_in_the_middle(network: Network) -> dict[str, Any]:
    """Leave a stream after its first text; how the worker's generation ended."""
    before, pid = idle(network), worker_pid(network)
    try:
        with streaming(network, LONG) as (job_id, events):
            assert next(events)["choices"]
            os.kill(pid, signal.SIGSTOP)
        if len(generated(network)) == before:
            assert network.settled(job_id)["status"] == "cancelled"
            wait_until_dropped(network, job_id)
    finally:
        os.kill(pid, signal.SIGCONT)
    return until(network, before + 1)


def wait_until_dropped(network: Network, job_id: str) -> None:
    """Wait until an operator has logged that it works on this job no more."""
    deadline, dropped = time.monotonic() + ANSWER_S, f'"{job_id}"'
    while not any(
        dropped in line and "dropped what the dispatcher cancelled" in line
        for path in (network.data / "logs").glob("operator-*.log")
        for line in path.read_text().splitlines()
    ):
        assert time.monotonic() < deadline, "no operator was told"
        time.sleep(0.02)
