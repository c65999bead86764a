"""What the gateway adds to a model server's answers, beside LiteLLM's proxy over the same server, in one run.

    python benchmarks/gateway.py [--requests 256] [--clients 64] [--rounds 3] [--json]

One llama.cpp server (`xllamacpp`) with the demo model answers all of them:

    direct    clients ask it themselves: the limit
    litellm   LiteLLM's proxy before it, one worker process, no database: no evidence, nothing kept
    aos       our gateway, an operator, and that server as its backend: draw, signatures, clocks, PostgreSQL, Redis; token ids as evidence
    worker    our gateway, an operator, and our own worker with the same model: fingerprints as evidence, the most there is

By turns, each side answers the same requests: some one by one (time of a whole answer, and of a streamed answer's first text), then many from
`--clients` at once. Memory is what the side's own processes hold (PSS, so that shared pages count once), with and without its servers.

Needs the `bench` extra, and LiteLLM in an environment of its own: scripts/peers.sh.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml
from one_dispatcher import child, ready, seconds, tree

from aos_cli.embedded import EmbeddedPostgres, EmbeddedValkey
from aos_cli.ports import number, reserve
from aos_dispatcher.database import Database
from aos_dispatcher.operators import register_operator
from aos_dispatcher.projects import create_project
from aos_operator.database import prepare_database
from aos_protocol.identity import Signer
from aos_service.database import create_engine, database_url

ROOT = Path(__file__).resolve().parents[1]
MODEL_FILE = ROOT / "models" / "aos-demo-5m.F16.gguf"
MODEL = MODEL_FILE.name
PEERS = ROOT / ".aos" / "peers" / "bin"
PROMPT = "What is AI?"
BOUND_S = 120.0


def serve_model(port: int) -> None:
    """Be the model server: llama.cpp's own HTTP server, until killed."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(MODEL_FILE)
    params.model_alias = {MODEL}
    params.hostnames, params.port = ["127.0.0.1"], port
    params.n_parallel, params.n_ctx = 16, 16 * 512
    params.cpuparams.n_threads, params.n_threads_http = (
        1,
        96,
    )  # a thread for each connection that is kept open
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    sys.stdin.read()


@dataclass
class Side:
    """One way to an answer: where to ask, with which key, and the processes behind it."""

    name: str
    url: str
    key: str
    processes: Callable[[], list[int]]
    servers: Callable[[], list[int]] = list
    whole: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def client(self, connections: int) -> httpx.AsyncClient:
        """Connect as any HTTP client would; keep-alive, no proxies."""
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
        return httpx.AsyncClient(
            base_url=self.url,
            headers={"Authorization": f"Bearer {self.key}"},
            timeout=BOUND_S,
            limits=limits,
            trust_env=False,
        )

    def result(self) -> dict[str, Any]:
        """Medians over all rounds; times in ms, memory in MiB."""
        return {
            "answer_ms": statistics.median(self.whole),
            "answer_p95_ms": statistics.quantiles(self.whole, n=20)[-1],
            "first_text_ms": statistics.median(self.first),
            "first_text_p95_ms": statistics.quantiles(self.first, n=20)[-1],
            "requests_s": statistics.median(self.rates),
            "processor_ms": statistics.median(self.cpu),
            "memory_mib": pss(self.processes()),
            "servers_mib": pss(self.servers()),
        }


def pss(pids: list[int]) -> float:
    """Proportional set size of these processes and their children, in MiB."""
    total = 0
    for pid in {below for root in pids for below in tree(root)}:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


def body(tokens: int, *, stream: bool) -> dict[str, Any]:
    """Return a chat request for a short answer."""
    messages = [{"role": "user", "content": PROMPT}]
    return {
        "model": MODEL,
        "messages": messages,
        "max_tokens": tokens,
        "temperature": 1.0,
        "top_p": 0.5,
        "stream": stream,
    }


async def ask(client: httpx.AsyncClient, tokens: int) -> None:
    """Ask once and take the whole answer."""
    response = await _posted(client, body(tokens, stream=False))
    if response.status_code != 200 or not response.json()["choices"][0]["message"]["content"]:
        raise RuntimeError(f"{client.base_url} answered {response.status_code}: {response.text[:300]}")


async def _posted(client: httpx.AsyncClient, said: dict[str, Any]) -> httpx.Response:
    """Post; llama.cpp's server closes a connection after a hundred requests, maybe just when the next is sent."""
    try:
        return await client.post("/chat/completions", json=said)
    except httpx.RemoteProtocolError:
        return await client.post("/chat/completions", json=said)


async def first_text(client: httpx.AsyncClient, tokens: int) -> float:
    """Stream one answer to its end, and return the ms until its first text."""
    began, came = time.perf_counter(), 0.0
    async with client.stream("POST", "/chat/completions", json=body(tokens, stream=True)) as response:
        async for line in response.aiter_lines():
            if came or not line.startswith("data: {"):
                continue
            choices = json.loads(line.removeprefix("data: ")).get("choices")
            if choices and choices[0]["delta"].get("content"):
                came = time.perf_counter()
    if not came:
        raise RuntimeError(f"{client.base_url} streamed no text")
    return 1e3 * (came - began)


async def play(side: Side, requests: int, clients: int, tokens: int) -> None:
    """One turn of a side."""
    async with side.client(1) as client:
        await ask(client, tokens)
        for _ in range(max(requests // 8, 10)):
            began = time.perf_counter()
            await ask(client, tokens)
            side.whole.append(1e3 * (time.perf_counter() - began))
            side.first.append(await first_text(client, tokens))
    async with side.client(clients) as client:
        todo = iter(range(requests))

        async def one() -> None:
            for _ in todo:
                await ask(client, tokens)

        before, began = sum(map(seconds, _all(side))), time.perf_counter()
        await asyncio.gather(*(one() for _ in range(clients)))
        side.rates.append(requests / (time.perf_counter() - began))
        side.cpu.append(1e3 * (sum(map(seconds, _all(side))) - before) / requests)


def _all(side: Side) -> list[int]:
    return [pid for root in side.processes() + side.servers() for pid in tree(root)]


def free_port() -> int:
    """Return a port that nobody has just now."""
    with reserve(0) as reserved:
        return number(reserved)


async def until_up(url: str, path: str) -> None:
    """Return when a server answers."""
    async with httpx.AsyncClient(base_url=url, trust_env=False) as client, asyncio.timeout(BOUND_S):
        while True:
            try:
                if (await client.get(path)).status_code == 200:
                    return
            except httpx.ConnectError:
                pass
            await asyncio.sleep(0.1)


async def model_server(stack: AsyncExitStack, folder: Path) -> tuple[str, int]:
    """Start the model server; its URL and pid."""
    port = free_port()
    process = await child(stack, folder / "model.log", sys.executable, __file__, "--serve", str(port))
    url = f"http://127.0.0.1:{port}"
    await until_up(url, "/health")
    return url, process.pid


async def litellm(stack: AsyncExitStack, folder: Path, backend: str) -> Side:
    """Start LiteLLM's proxy before the model server."""
    port, key = free_port(), "sk-bench"
    config = {
        "model_list": [
            {
                "model_name": MODEL,
                "litellm_params": {
                    "model": f"openai/{MODEL}",
                    "api_base": f"{backend}/v1",
                    "api_key": "none",
                },
            }
        ],
        "general_settings": {"master_key": key},
        "litellm_settings": {"telemetry": False},
    }
    path = folder / "litellm.yaml"
    path.write_text(yaml.safe_dump(config))
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    arguments = ("--config", str(path), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1")
    process = await child(stack, folder / "litellm.log", str(PEERS / "litellm"), *arguments)
    url = f"http://127.0.0.1:{port}"
    await until_up(url, "/health/liveliness")
    return Side("litellm", f"{url}/v1", key, lambda: [process.pid])


@asynccontextmanager
async def network(
    name: str, folder: Path, *, telemetry: str | None = None, **operator: dict[str, Any] | list[Any]
) -> AsyncIterator[Side]:
    """Run a dispatcher and one operator on servers of their own, as deployed; they send traces to `telemetry`."""
    folder = folder / name
    folder.mkdir(mode=0o711)
    async with AsyncExitStack() as stack:
        postgres = await stack.enter_async_context(EmbeddedPostgres(folder / "postgres"))
        valkey = await stack.enter_async_context(EmbeddedValkey(folder / "valkey"))
        me, signer, port = Signer.generate(), Signer.generate(), free_port()
        url = f"http://127.0.0.1:{port}"
        settings = {
            "database": {"url": postgres.url("dispatcher")},
            "identity": {"signer_key": me.secret.hex()},
            "listen": {"port": port},
            "verification": {"least_evidence": "text", "audit_share": 0.1},
            "gateway": {"token_rate": 0, "address_rate": 0},
            "telemetry": {"otlp_endpoint": telemetry},
        }
        run = await child(
            stack,
            folder / "dispatcher.log",
            _command("dispatcher"),
            "run",
            "--log-level",
            "error",
            "-c",
            _written(folder / "dispatcher.yaml", settings),
        )
        async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
            await ready(client, 0)
            token = await _registered(postgres, signer.address)
            await prepare_database(database_url(postgres.url("operator")))
            net = {"dispatcher_url": f"ws://127.0.0.1:{port}/ws", "worker_concurrency": 64}
            theirs = {
                "db": {"pg_db_url": postgres.url("operator"), "min_connect_pool": 8, "max_connect_pool": 8},
                "queue": {"queue_url": valkey.url()},
                "net": net | operator.pop("net", {}),
                "node": {"signer_key": signer.secret.hex(), "dispatcher_address": me.address},
                "telemetry": {"otlp_endpoint": telemetry},
                **operator,
            }
            runner = await child(
                stack,
                folder / "operator.log",
                _command("operator-runner"),
                "--log-level",
                "error",
                "-c",
                _written(folder / "operator.yaml", theirs),
            )
            await ready(client, 1)
        servers = [server.child.pid or 0 for server in (postgres, valkey)]
        yield Side(name, f"{url}/v1", token, lambda: [run.pid, runner.pid], lambda: servers)


async def _registered(postgres: EmbeddedPostgres, operator: str) -> str:
    """Register the operator, and return a project's token."""
    engine = create_engine(
        database_url(postgres.url("dispatcher")), pool_min=1, pool_max=1, connect_timeout=5, acquire_timeout=5
    )
    database = Database(engine)
    try:
        await register_operator(database, operator)
        return await create_project(database, "bench", private=False)
    finally:
        await database.close()


def _written(path: Path, settings: dict[str, Any]) -> str:
    path.touch(0o600)
    path.write_text(yaml.safe_dump(settings))
    return str(path)


def _command(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Start everything, let the sides take turns, and return what each took."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aos-bench-")))
        folder.chmod(0o711)
        backend, model = await model_server(stack, folder)
        worker_url = f"http://127.0.0.1:{free_port()}"
        arguments = ("--model", str(MODEL_FILE), "--port", worker_url.rpartition(":")[2], "--slots", "16")
        await child(stack, folder / "worker.log", _command("inference-worker"), *arguments, "--threads", "1")
        await until_up(worker_url, "/healthz")
        backends = [{"kind": "llamacpp", "url": backend}]
        sides = [
            Side("direct", f"{backend}/v1", "none", lambda: [model]),
            await litellm(stack, folder, backend),
            await stack.enter_async_context(network("aos", folder, backends=backends)),
        ]
        sides.append(
            await stack.enter_async_context(network("worker", folder, net={"worker_url": worker_url}))
        )
        for _ in range(options.rounds):
            for side in sides:
                await play(side, options.requests, options.clients, options.tokens)
        return {
            "load": os.getloadavg()[0],
            "clients": options.clients,
            "sides": {side.name: side.result() for side in sides},
        }


def show(result: dict[str, Any]) -> None:
    """Print the table, and what each side adds to asking the server itself."""
    clients = f"{result['clients']} clients"
    print(f"load {result['load']:.1f}; times in ms, memory in MiB (servers: PostgreSQL and Valkey)")
    print(
        f"{'':10}{'answer':>9}{'p95':>8}{'1st text':>10}{'p95':>8}{clients + ', /s':>16}{'cpu':>8}{'memory':>9}{'servers':>9}"
    )
    direct, peer = result["sides"]["direct"], result["sides"]["litellm"]
    for name, side in result["sides"].items():
        print(
            f"{name:10}{side['answer_ms']:9.1f}{side['answer_p95_ms']:8.1f}{side['first_text_ms']:10.1f}"
            f"{side['first_text_p95_ms']:8.1f}{side['requests_s']:16.1f}{side['processor_ms']:8.2f}{side['memory_mib']:9.0f}{side['servers_mib']:9.0f}"
        )
    for name in ("aos", "worker"):
        side = result["sides"][name]
        answer = (side["answer_ms"] - direct["answer_ms"]) / (peer["answer_ms"] - direct["answer_ms"])
        first = (side["first_text_ms"] - direct["first_text_ms"]) / (
            peer["first_text_ms"] - direct["first_text_ms"]
        )
        rate, memory = side["requests_s"] / peer["requests_s"], side["memory_mib"] / peer["memory_mib"]
        print(
            f"{name} to litellm: added to an answer {answer:.2f}, to the first text {first:.2f}; requests a second {rate:.2f}; memory {memory:.2f}"
        )


def main() -> None:
    """Parse the options and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--requests", type=int, default=256)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.serve is not None:
        serve_model(options.serve)
        return
    if not (PEERS / "litellm").exists():
        parser.exit(2, "LiteLLM is not here: run scripts/peers.sh\n")
    result = asyncio.run(measure(options))
    print(json.dumps(result)) if options.json else show(result)


if __name__ == "__main__":
    main()
