"""How long it takes to the first text through gateway, dispatcher and operator, beside asking the worker itself, in one run; and where the time goes.

    python benchmarks/first_token.py [--requests 200] [--tokens 8] [--json]

One worker with the demo model serves both. By turns, one request at a time: its own `POST /v1/generate` with `stream`, which has no queue, no
signatures and keeps nothing; then `POST /v1/completions` with `stream` at a dispatcher with one operator, on PostgreSQL and Valkey as deployed. The first
of each is not counted. Where the time goes is read from the spans that dispatcher and operator send of the same requests (OTLP); a second network runs
without them, so that telling costs nothing of what is reported.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
from gateway import MODEL, MODEL_FILE, Side, child, free_port, network, until_up
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from support.otlp import Receiver, receiving

PROMPT = "Once upon a time"
SPANS = {"submit", "round", "draw", "dispatch_job", "task", "worker"}
STEPS = (
    ("request to commit", ("asked", 1), ("submit", 1)),
    ("to the draw", ("submit", 1), ("draw", 0)),
    ("draw", ("draw", 0), ("draw", 1)),
    ("committee stored", ("draw", 1), ("dispatch_job", 0)),
    ("to the operator, and its worker", ("dispatch_job", 0), ("worker", 0)),
    ("worker's first text, and back", ("worker", 0), ("text", 1)),
)
"""What lies between two moments of a request: the start (0) or end (1) of a span, or of what its client did."""

BESIDE = (("beside that: operator's store and queue", ("dispatch_job", 0), ("task", 0)),)


async def first_text(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> tuple[float, float, str]:
    """Stream one answer to its end: when it was asked, and when its first text came (Unix seconds), and the job's id if it has one."""
    asked, came = time.time(), 0.0
    async with client.stream("POST", path, json=body) as response:
        if response.status_code != 200:
            raise RuntimeError(f"{response.status_code}: {await response.aread()!r}")
        async for line in response.aiter_lines():
            if not came and line.startswith("data: {") and _text(json.loads(line.removeprefix("data: "))):
                came = time.time()
    return asked, came, response.headers.get("x-aos-job-id", "")


def _text(event: dict[str, Any]) -> str:
    choices = event.get("choices")
    return event.get("text", "") if choices is None else "".join(choice["text"] for choice in choices)


def bodies(tokens: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The same request for the worker and for the gateway."""
    params = {"temperature": 1.0, "top_p": 0.5, "max_tokens": tokens}
    common = {"model": MODEL, "prompt": PROMPT, "stream": True}
    return common | {"params": params, "seed": "ab" * 32, "prover": "0x" + "a" * 40}, common | params


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Start worker and networks, and ask in turns."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aos-bench-")))
        folder.chmod(0o711)
        port = free_port()
        arguments = ("--model", str(MODEL_FILE), "--port", str(port), "--slots", "16", "--threads", "1")
        program = str(Path(sys.executable).with_name("inference-worker"))
        await child(stack, folder / "worker.log", program, *arguments)
        worker = f"http://127.0.0.1:{port}"
        await until_up(worker, "/healthz")
        receiver = await stack.enter_async_context(receiving())
        net = {"worker_url": worker}
        plain = await stack.enter_async_context(network("plain", folder, net=dict(net)))
        traced = await stack.enter_async_context(
            network("traced", folder, telemetry=receiver.url, net=dict(net))
        )
        asked = await ask_in_turns(worker, plain, traced, options)
        async with asyncio.timeout(30):
            await receiver.until(lambda: _all_there(receiver, [job for _, _, job in asked["traced"]]))
        took = {name: [1e3 * (came - began) for began, came, _ in times[1:]] for name, times in asked.items()}
        return {
            "load": os.getloadavg()[0],
            "direct": figures(took["direct"]),
            "gateway": figures(took["plain"]),
            "ratio": statistics.median(took["plain"]) / statistics.median(took["direct"]),
            "steps": steps(receiver, asked["traced"][1:]),
        }


async def ask_in_turns(
    worker: str, plain: Side, traced: Side, options: argparse.Namespace
) -> dict[str, list[tuple[float, float, str]]]:
    """Ask each side as often, one after the other."""
    raw, public = bodies(options.tokens)
    asked: dict[str, list[tuple[float, float, str]]] = {"direct": [], "plain": [], "traced": []}
    async with (
        httpx.AsyncClient(base_url=worker, timeout=60, trust_env=False) as direct,
        plain.client(1) as one,
        traced.client(1) as other,
    ):
        for _ in range(options.requests + 1):
            asked["direct"].append(await first_text(direct, "/v1/generate", raw))
            asked["plain"].append(await first_text(one, "/completions", public))
            asked["traced"].append(await first_text(other, "/completions", public))
    return asked


def figures(took: list[float]) -> dict[str, float]:
    """Median and 95th percentile, in ms."""
    return {"median_ms": statistics.median(took), "p95_ms": statistics.quantiles(took, n=20)[-1]}


def spans(receiver: Receiver) -> Iterator[tuple[str, str, float, float]]:
    """Every span so far: its trace, name, start and end (Unix seconds). What was received one after the other is one message, too."""
    for resource in ExportTraceServiceRequest.FromString(bytes(receiver.raw)).resource_spans:
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield (
                    span.trace_id.hex(),
                    span.name,
                    span.start_time_unix_nano / 1e9,
                    span.end_time_unix_nano / 1e9,
                )


def _all_there(receiver: Receiver, jobs: list[str]) -> bool:
    found: dict[str, set[str]] = {}
    for span in receiver.spans:
        found.setdefault(span.trace, set()).add(span.name)
    return all(found.get(job[:32], set()) >= SPANS for job in jobs)


def steps(receiver: Receiver, asked: list[tuple[float, float, str]]) -> dict[str, float]:
    """The median ms of each step on the way to the first text."""
    traces: dict[str, dict[str, tuple[float, float]]] = {}
    for trace, name, start, end in spans(receiver):
        traces.setdefault(trace, {}).setdefault(name, (start, end))
    took: dict[str, list[float]] = {name: [] for name, *_ in STEPS + BESIDE}
    for began, came, job in asked:
        moments = traces[job[:32]] | {"asked": (began, began), "text": (came, came)}
        for name, (since, start), (until, end) in STEPS + BESIDE:
            took[name].append(1e3 * (moments[until][end] - moments[since][start]))
    return {name: statistics.median(values) for name, values in took.items()}


def show(result: dict[str, Any]) -> None:
    """Print what it takes, and where the time goes."""
    print(f"load {result['load']:.1f}; ms to the first text{'median':>20}{'p95':>8}")
    rows: tuple[tuple[str, Callable[[], Any]], ...] = (
        ("the worker itself", lambda: result["direct"]),
        ("through the gateway", lambda: result["gateway"]),
    )
    for name, of in rows:
        print(f"{name:40}{of()['median_ms']:10.2f}{of()['p95_ms']:8.2f}")
    added = result["gateway"]["median_ms"] - result["direct"]["median_ms"]
    print(f"{'added':40}{added:10.2f}   {result['ratio']:.1f} times")
    print("where it goes (another network, which is traced)")
    for name, took in result["steps"].items():
        print(f"  {name:40}{took:8.2f}")


def main() -> None:
    """Parse the options and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=8)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result = asyncio.run(measure(options))
    print(json.dumps(result)) if options.json else show(result)


if __name__ == "__main__":
    main()
