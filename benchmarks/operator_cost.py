"""Processor time of one operator for each job and each ticket, its PostgreSQL's and its Valkey's included.

    python benchmarks/operator_cost.py [--jobs 400] [--rounds 3] [--at-once 32] [--json] [--profile FILE]

The operator is a process of its own with a stub worker, as deployed, on an embedded PostgreSQL (fsync on) and Valkey. The
dispatcher is a script: its frames are signed beforehand, so that hardly anything but the operator is at work, and what the
operator answered is verified after the clock has stopped. Processor time is the kernel's count for the processes, which other users of
the machine move less than the clock. A *ticket* is a draw that leads to nothing; a *job* is a draw, a dispatch and its accepted result.
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import yaml
from one_dispatcher import seconds, tree
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from aos_cli.embedded import EmbeddedPostgres, EmbeddedServer, EmbeddedValkey
from aos_operator.database import prepare_database
from aos_operator.runner import run_operator
from aos_operator.settings import OperatorSettings
from aos_operator.stub import StubWorker
from aos_protocol.fields import parse_message
from aos_protocol.frames import Frame, open_frame
from aos_protocol.messages import Dispatch, Ticket
from aos_protocol.verification import check_ticket
from aos_service.database import database_url
from aos_service.logs import configure_logs
from aos_service.settings import load_settings

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
BOUND_S = 300.0


async def operator_process(config: Path, profile: Path | None) -> None:
    """Be an operator with a stub worker, until killed; with `profile`, until a line comes, and keep cProfile's figures there."""
    from unit.operator.world import MODEL

    configure_logs("operator-runner")
    settings, stop = load_settings(config, OperatorSettings), asyncio.Event()
    running = run_operator(settings, stop, worker=StubWorker({MODEL.name: MODEL.sha256}))
    if profile is None:
        await running
        return
    import cProfile

    profiler = cProfile.Profile()
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), stop.set)
    profiler.enable()
    await running
    profiler.disable()
    profiler.dump_stats(profile)


class Script:
    """The dispatcher: plays frames that were made before, and keeps what comes back. One operator connects."""

    def __init__(self) -> None:
        from unit.operator.world import World

        self.world = World()
        self.url = ""
        self.connected = asyncio.Event()
        self._socket: ServerConnection | None = None
        self._replies: dict[str, asyncio.Future[str]] = {}
        self._results: dict[str, asyncio.Future[str]] = {}

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Listen on loopback until the block ends."""
        async with serve(self._serve, "127.0.0.1", 0, max_size=None) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            self.url = f"ws://127.0.0.1:{port}/ws"
            yield

    def frame(self, method: str, said: dict[str, Any]) -> tuple[str, str]:
        """A signed request: its id and text."""
        text = self.world.request(method, said)
        return json.loads(text)["id"], text

    async def ask(self, frame: tuple[str, str]) -> str:
        """Send a request; the text of its reply."""
        frame_id, text = frame
        reply = self._replies[frame_id] = asyncio.get_running_loop().create_future()
        assert self._socket is not None
        await self._socket.send(text)
        return await reply

    def result(self, job_id: str) -> "asyncio.Future[str]":
        """What will have the text of the `job_result` of a job."""
        result: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._results[job_id] = result
        return result

    async def _serve(self, socket: ServerConnection) -> None:
        await socket.send(self.world.challenge())
        connect = open_frame(await socket.recv())
        await socket.send(self.world.welcome(connect))
        self._socket = socket
        self.connected.set()
        with suppress(ConnectionClosed):  # the operator ends without a word
            async for text in socket:
                body = json.loads(text)
                if "method" not in body:
                    self._replies.pop(body["id"]).set_result(str(text))
                    continue
                await socket.send(self.world.reply(body["id"]))
                self._results.pop(body["params"][0]["job_id"]).set_result(str(text))


class Usage:
    """Processor seconds of whole process trees, what has ended below them included."""

    def __init__(self, **roots: int) -> None:
        self._roots = roots

    def read(self) -> dict[str, float]:
        """Seconds by name, so far."""
        return {name: sum(map(seconds, tree(root))) for name, root in self._roots.items()}


async def play(
    script: Script, jobs: int, at_once: int, *, dispatched: bool
) -> tuple[Callable[[], Awaitable[None]], Callable[[], None]]:
    """Prepare a round: what plays it, and what verifies it."""
    made = [script.world.job(f"What is AI, {number}?") for number in range(jobs)]
    draws = [script.world.draw(job) for job in made]
    asked = [
        (script.frame("draw", draw.to_json()), script.frame("dispatch_job", job.to_json()), job)
        for draw, job in zip(draws, made, strict=True)
    ]
    answers: list[tuple[str, str | None]] = []

    async def one(draw: tuple[str, str], dispatch: tuple[str, str], job: Dispatch) -> None:
        ticket = await script.ask(draw)
        if not dispatched:
            answers.append((ticket, None))
            return
        result = script.result(job.job_id)
        await script.ask(dispatch)
        answers.append((ticket, await result))

    async def client(todo: Any) -> None:  # noqa: ANN401 - an iterator that clients share
        for step in todo:
            await one(*step)

    async def run() -> None:
        todo = iter(asked)
        await asyncio.gather(*(client(todo) for _ in range(at_once)))

    def verify() -> None:
        from unit.operator.world import OPERATOR

        by_id = {job.job_id: (draw, job) for draw, job in zip(draws, made, strict=True)}
        for said, result in answers:
            ticket = parse_message(Ticket, (open_frame(said).result or {})["ticket"])
            draw, job = by_id.pop(ticket.job_id)
            check_ticket(ticket, draw, OPERATOR.address)
            if result is not None:
                frame: Frame = open_frame(result, max_bytes=4 << 20)
                assert script.world.verify(frame, job, ticket).answered
        assert by_id == {}, "not everything was answered"

    return run, verify


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds of processor time and jobs a second, medians over the rounds, for tickets and for whole jobs."""
    with tempfile.TemporaryDirectory(prefix="aos-bench-") as folder:
        Path(folder).chmod(0o711)
        script = Script()
        async with (
            EmbeddedPostgres(Path(folder) / "postgres") as postgres,
            EmbeddedValkey(Path(folder) / "valkey") as valkey,
            script.serving(),
            _operator(Path(folder), postgres, valkey, script, options.profile) as pid,
        ):
            usage = Usage(operator=pid, postgres=_pid(postgres), valkey=_pid(valkey))
            await script.connected.wait()
            kinds = {"ticket": False, "job": True} if not options.profile else {"job": True}
            rounds: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
            for number in range(options.rounds + 1):
                for kind, dispatched in kinds.items():
                    run, verify = await play(script, options.jobs, options.at_once, dispatched=dispatched)
                    before, began = usage.read(), time.perf_counter()
                    await run()
                    took = time.perf_counter() - began
                    await asyncio.sleep(0.2)  # what follows the last reply, closing and acknowledging
                    after = usage.read()
                    verify()
                    if number:  # the first round warms up
                        spent = {name: 1000 * (after[name] - before[name]) / options.jobs for name in after}
                        rounds[kind].append({**spent, "per_second": options.jobs / took})
    return {kind: _medians(measured) for kind, measured in rounds.items()}


def _medians(rounds: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(measured[name] for measured in rounds) for name in rounds[0]}


def _pid(server: EmbeddedServer) -> int:
    return server.child.pid


@asynccontextmanager
async def _operator(
    folder: Path, postgres: EmbeddedPostgres, valkey: EmbeddedValkey, script: Script, profile: Path | None
) -> AsyncIterator[int]:
    url = postgres.url("operator")
    await prepare_database(database_url(url))
    config = folder / "operator.yaml"
    config.touch(0o600)
    settings = {
        "db": {"pg_db_url": url, "min_connect_pool": 8, "max_connect_pool": 8},
        "queue": {"queue_url": valkey.url()},
        "net": {"dispatcher_url": script.url, "worker_concurrency": 16},
        "node": {"signer_key": "11" * 32, "dispatcher_address": script.world.signer.address},
    }
    config.write_text(yaml.safe_dump(settings))
    command = [sys.executable, __file__, "--operator", str(config)]
    if profile is not None:
        command += ["--profile", str(profile)]
    with (folder / "operator.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.PIPE, stdout=log, stderr=log
        )
        try:
            yield process.pid
        finally:
            assert process.stdin is not None
            if profile is None:
                process.terminate()
            else:
                process.stdin.write(b"\n")
            await process.wait()


def main() -> None:
    """Parse the command line, measure within a time bound, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--jobs", type=int, default=400, help="jobs a round (default: 400)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds, after one that warms up (default: 3)")
    parser.add_argument(
        "--at-once", type=int, default=32, help="jobs under way at the same time (default: 32)"
    )
    parser.add_argument("--json", action="store_true", help="print figures for machines")
    parser.add_argument("--profile", type=Path, help="keep a cProfile of the operator here (which slows it)")
    parser.add_argument("--operator", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.operator is not None:
        asyncio.run(operator_process(options.operator, options.profile))
        return
    result = asyncio.run(asyncio.wait_for(measure(options), BOUND_S))
    if options.json:
        print(json.dumps(result))
        return
    print(
        f"medians of {options.rounds} rounds of {options.jobs}, {options.at_once} at once; ms of processor time each"
    )
    print(f"{'':10}{'operator':>10}{'postgres':>10}{'valkey':>10}{'together':>10}{'per second':>12}")
    for kind, spent in result.items():
        parts = [spent[name] for name in ("operator", "postgres", "valkey")]
        shown = "".join(f"{part:>10.2f}" for part in [*parts, sum(parts)])
        print(f"{kind:10}{shown}{spent['per_second']:>12.0f}")


if __name__ == "__main__":
    main()
