"""What a `tee` job costs beside the same `opml` job, end to end, with a SIMULATED enclave, and where that goes.

    python benchmarks/enclave.py [--jobs 200] [--rounds 5] [--json]

One dispatcher, one operator with `inference-worker`, one with `tee-worker --enclave simulated`, all processes of their own, on the embedded
servers with their default durability, and the demo model. No job is verified by others (`audit_share` 0), so that a job's way differs in
nothing but the enclave. Jobs run one after the other, in turns (A B A B ...); a job's time is from its acceptance to its end, as
PostgreSQL has them. Real hardware takes its own time to sign a document, which is not in these figures.
"""

import argparse
import asyncio
import json
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import httpx
import structlog
import yaml
from sqlalchemy import text

from aos_cli.embedded import EmbeddedPostgres, EmbeddedValkey
from aos_cli.models import DEMO_MODEL
from aos_cli.ports import number, reserve
from aos_dispatcher.database import Database
from aos_dispatcher.operators import register_operator
from aos_dispatcher.projects import create_project
from aos_dispatcher.settings import NO_REGISTRY
from aos_operator.database import prepare_database
from aos_protocol.attestation.appraisal import appraise
from aos_protocol.attestation.policy import AttestationPolicy
from aos_protocol.attestation.statement import check_statement, execution_claim, statement_digest
from aos_protocol.identity import Signer
from aos_protocol.job import JobSpec
from aos_protocol.messages import ModelOffer
from aos_protocol.typed_data import Domain
from aos_service.child import Child
from aos_service.database import create_engine, database_url
from aos_service.transport import WorkerTransport
from aos_tee_worker import simulator
from aos_tee_worker.keyring import Keyring

BOUND_S: Final = 540.0
PROMPTS: Final = ("What is AI?", "What is a star?", "Who are you?", "What is a seed?")
PARAMS: Final = {"temperature": 1.0, "top_p": 0.5, "max_tokens": 64}
REPEATS: Final = 200
KINDS: Final = ("opml", "tee")


class Network:
    """Both kinds of operator behind one dispatcher."""

    def __init__(self, folder: Path, postgres: EmbeddedPostgres, valkey: EmbeddedValkey) -> None:
        self._folder, self._postgres, self._valkey = folder, postgres, valkey
        self._signer = Signer.generate()

    async def start(self, children: AsyncExitStack) -> None:
        """Start every part, and return when both operators are connected."""
        with reserve(0) as port:
            self._port = number(port)
        fingerprint = simulator.ensure_root(self._folder / "simulator")
        policy = self._write("policy", _policy(fingerprint))
        for name, command in self._workers().items():
            self._run(children, name, *command)
        url = self._postgres.url("dispatcher")
        self._run(children, "dispatcher", "dispatcher", "run", "-c", str(self._dispatcher(url, policy)))
        await self._ready(0)
        engine = create_engine(
            database_url(url), pool_min=1, pool_max=2, connect_timeout=5, acquire_timeout=5
        )
        self._database = Database(engine)
        children.push_async_callback(self._database.close)
        self._token = await create_project(self._database, "bench", private=False)
        for kind in KINDS:
            self._run(children, f"operator-{kind}", "operator-runner", "-c", str(await self._operator(kind)))
        await self._ready(2)
        self._workers_clients = {
            kind: await children.enter_async_context(_worker_client(f"unix://{self._folder / kind}.sock"))
            for kind in KINDS
        }

    async def job(self, client: httpx.AsyncClient, kind: str, index: int) -> str:
        """Run one job to its end; returns its id."""
        prompt = PROMPTS[index % len(PROMPTS)]
        job = {"tag": kind, "prompt": prompt, "model": DEMO_MODEL.name, "params": PARAMS}
        body = {"from": "bench", "tag": "", "user": f"user {index}", "job": job, "verify": self._token}
        answer = await client.post("/api/job/submit", json=body)
        answer.raise_for_status()
        job_id: str = answer.json()["result"]
        while await self._open(job_id):
            await asyncio.sleep(0.005)
        return job_id

    async def times(self, jobs: list[str]) -> list[float]:
        """Seconds that each of these jobs took. Raises RuntimeError unless all have completed."""
        query = text(
            "select status, extract(epoch from finished_at - created_at) as took from jobs where id = any(:ids)"
        )
        async with self._database.connect() as connection:
            rows = (await connection.execute(query, {"ids": jobs})).all()
        if len(rows) != len(jobs) or any(row.status != "completed" for row in rows):
            raise RuntimeError("a job did not complete: these figures would mean nothing")
        return [float(row.took) for row in rows]

    async def generation(self, kind: str, index: int) -> float:
        """Seconds that a worker alone takes for such a job, asked as its operator does."""
        body = {"model": DEMO_MODEL.name, "prompt": PROMPTS[index % len(PROMPTS)], "params": PARAMS}
        body |= {"seed": f"{index:064x}", "prover": self._signer.address}
        if kind == "tee":
            body["execution"] = {"job_id": "ef" * 32, "chain_id": 0, "registry": NO_REGISTRY}
        before = time.perf_counter()
        answer = await self._workers_clients[kind].post("/v1/generate", json=body)
        answer.raise_for_status()
        return time.perf_counter() - before

    def client(self) -> httpx.AsyncClient:
        """A client of the dispatcher."""
        return httpx.AsyncClient(base_url=f"http://127.0.0.1:{self._port}", timeout=60, trust_env=False)

    async def _open(self, job_id: str) -> bool:
        query = text("select status in ('created', 'dispatched') from jobs where id = :id")
        async with self._database.connect() as connection:
            return bool((await connection.execute(query, {"id": job_id})).scalar_one())

    async def _ready(self, operators: int) -> None:
        async with self.client() as client, asyncio.timeout(60):
            while True:
                try:
                    if (await client.get("/readyz")).json().get("operators") == operators:
                        return
                except httpx.TransportError:
                    pass
                await asyncio.sleep(0.1)

    def _workers(self) -> dict[str, list[str]]:
        model = ["--model", str(DEMO_MODEL)]
        enclave = ["--enclave", "simulated", "--simulator", str(self._folder / "simulator")]
        return {
            "worker-opml": ["inference-worker", *model, "--uds", str(self._folder / "opml.sock")],
            "worker-tee": ["tee-worker", *enclave, *model, "--uds", str(self._folder / "tee.sock")],
        }

    def _run(self, children: AsyncExitStack, name: str, command: str, *arguments: str) -> None:
        program = str(Path(sys.executable).with_name(command))
        child = Child(name, [program, *arguments], log=self._folder / f"{name}.log")
        child.start()
        children.push_async_callback(child.stop)

    def _dispatcher(self, url: str, policy: Path) -> Path:
        settings = {
            "database": {"url": url},
            "identity": {"signer_key": self._signer.secret.hex()},
            "listen": {"port": self._port},
            "verification": {"audit_share": 0.0},
            "attestation": {"policy": str(policy)},
        }
        return self._write("dispatcher", settings)

    async def _operator(self, kind: str) -> Path:
        signer, url = Signer.generate(), self._postgres.url(f"operator_{kind}")
        await prepare_database(database_url(url))
        await register_operator(self._database, signer.address)
        net = {
            "dispatcher_url": f"ws://127.0.0.1:{self._port}/ws",
            "worker_url": f"unix://{self._folder / kind}.sock",
        }
        node = {
            "signer_key": signer.secret.hex(),
            "dispatcher_address": self._signer.address,
            "node_type": kind,
        }
        pool = {"min_connect_pool": 4, "max_connect_pool": 4}
        settings = {
            "db": {"pg_db_url": url, **pool},
            "queue": {"queue_url": self._valkey.url()},
            "net": net,
            "node": node,
        }
        return self._write(f"operator-{kind}", settings)

    def _write(self, name: str, settings: dict[str, Any]) -> Path:
        path = self._folder / f"{name}.yaml"
        path.touch(0o600)
        path.write_text(yaml.safe_dump(settings))
        return path


def _worker_client(url: str) -> httpx.AsyncClient:
    transport = WorkerTransport(url)
    return httpx.AsyncClient(transport=transport, base_url=transport.base_url, timeout=60)


def _policy(fingerprint: str) -> dict[str, Any]:
    build = {"name": "simulated", "measurements": simulator.measurements()}
    return {
        "version": "aos-attestation-policy/1",
        "allow_simulated": True,
        "models": {DEMO_MODEL.name: {"simulated": {"roots": [fingerprint], "builds": [build]}}},
    }


@dataclass(frozen=True)
class Said:
    """An answer, as far as an enclave speaks of it (`statement.Answered`)."""

    job_id: str
    operator: str
    result: str
    model: ModelOffer
    enclave: dict[str, Any] | None = None


def parts(folder: Path) -> dict[str, float]:
    """Median milliseconds of what a tee job does beside an opml job's work, each alone in this process."""
    fingerprint = simulator.ensure_root(folder / "simulator")
    policy = AttestationPolicy.model_validate(_policy(fingerprint))
    model, signer, seed = ModelOffer(name=DEMO_MODEL.name, sha256="ab" * 32), Signer.generate(), "cd" * 32
    keyring = Keyring(simulator.SimulatedDevice(folder / "simulator"), model, "benchmark", 86_400)
    domain, job = Domain(0, NO_REGISTRY), JobSpec(tag="tee", prompt=PROMPTS[0], model=model.name)
    said, commitment = Said("ef" * 32, signer.address, "AI is a machine.", model), "12" * 32
    claim = execution_claim(said, job, seed, commitment)
    statement = keyring.statement(claim, domain)
    stated = replace(said, enclave=statement.to_json())
    frames = [
        json.dumps({"enclave": enclave, "transcript": "00" * 2000}) for enclave in (None, stated.enclave)
    ]
    signing = [_median_ms(lambda text=text: signer.sign_message(text.encode())) for text in frames]

    def appraised() -> None:
        appraise(statement.attestation, policy, model=model.name, nonce=seed, now=int(time.time()))

    return {
        "enclave: answer signed and attested": _median_ms(lambda: keyring.statement(claim, domain)),
        "operator and dispatcher, each: statement read and its signature checked": _median_ms(
            lambda: check_statement(stated, job, seed, commitment, domain)
        ),
        "operator and dispatcher, each: statement's digest": _median_ms(
            lambda: statement_digest(stated.enclave)
        ),
        f"frame larger by {len(frames[1]) - len(frames[0]):,} bytes, each hashing": signing[1] - signing[0],
        "dispatcher: attestation appraised": _median_ms(appraised),
    }


def _median_ms(run: Callable[[], object]) -> float:
    taken = []
    for _ in range(REPEATS):
        before = time.perf_counter()
        run()
        taken.append(time.perf_counter() - before)
    return statistics.median(taken) * 1000


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run both kinds of job in turns, and the parts."""
    took: dict[str, list[float]] = {kind: [] for kind in KINDS}
    alone: dict[str, list[float]] = {kind: [] for kind in KINDS}
    ratios = []
    with tempfile.TemporaryDirectory(prefix="aos-bench-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        async with (
            EmbeddedPostgres(folder / "postgres") as postgres,
            EmbeddedValkey(folder / "valkey") as valkey,
            AsyncExitStack() as children,
        ):
            network = Network(folder, postgres, valkey)
            await network.start(children)
            async with network.client() as client:
                for kind in took:
                    await network.job(client, kind, 0)
                for _ in range(options.rounds):
                    medians = {}
                    for kind in took:
                        ids = [
                            await network.job(client, kind, index)
                            for index in range(options.jobs // options.rounds)
                        ]
                        times = await network.times(ids)
                        medians[kind] = statistics.median(times)
                        took[kind] += times
                    ratios.append(medians["tee"] / medians["opml"])
                for index in range(REPEATS):
                    for kind in KINDS:
                        alone[kind].append(await network.generation(kind, index))
        figures = {
            kind: {"median": statistics.median(times), "p99": _p99(times)} for kind, times in took.items()
        }
        workers = {kind: statistics.median(times) * 1000 for kind, times in alone.items()}
        more = {"worker: its answer over HTTP, all in all": workers["tee"] - workers["opml"]}
        return {
            "jobs": len(took["tee"]),
            **figures,
            "ratio": statistics.median(ratios),
            "worker_ms": workers,
            "parts_ms": more | parts(folder),
        }


def _p99(times: list[float]) -> float:
    return sorted(times)[min(len(times) - 1, int(len(times) * 0.99))]


def main() -> None:
    """Parse the command line, measure within a time bound, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--jobs", type=int, default=200, help="jobs of each kind (default: 200)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each kind, in turns (default: 5)")
    parser.add_argument("--json", action="store_true", help="print figures for machines")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    result = asyncio.run(asyncio.wait_for(measure(options), BOUND_S))
    if options.json:
        print(json.dumps(result))
        return
    print(f"{result['jobs']} jobs of each kind, one after the other; the enclave is SIMULATED")
    print(f"{'':8}{'median':>10}{'p99':>10}   (milliseconds, from acceptance to end)")
    for kind in ("opml", "tee"):
        print(f"{kind:8}{result[kind]['median'] * 1000:>10.1f}{result[kind]['p99'] * 1000:>10.1f}")
    tails = result["tee"]["p99"] / result["opml"]["p99"]
    print(
        f"tee / opml: {result['ratio']:.2f} (median of the rounds' ratios of medians), {tails:.2f} of the p99s"
    )
    print("  what a tee job takes more, part by part:")
    for name, value in result["parts_ms"].items():
        print(f"  {name}: {value:.2f} ms")


if __name__ == "__main__":
    main()
