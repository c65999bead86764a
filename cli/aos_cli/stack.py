"""The one-machine stack: every part a real process of its own, started in order, watched, and stopped in order.

    async with running_stack(data, Plan(model), progress) as stack:
        ...  # stack.url answers; leaving stops everything

1. PostgreSQL and Valkey, the workers (which load the model), and the keys, all at the same time;
2. the dispatcher, which makes its tables, and the operators' tables;
3. the model's name, pinned to the file with its calibration; the project, if there is none yet; and each operator: entered into the registry, then started; ready when the dispatcher
   counts all of them.

With a chain, anvil is among the first, and once there are keys, the contracts are deployed and every operator registered there.

Several dispatchers are processes of one, which meet over Valkey; operators know all of them, and begin with different ones.

Operators `operator-N` share one worker; `enclave-N` have a simulated enclave of their own, and the dispatcher then a policy that lets
simulated ones in.

Whichever part ends before it is told to ends the stack: what goes on with two operators of three has a defect to be looked at. (What
runs inside an enclave is no part of its own: `tee-worker` starts it again.)
"""

import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import httpx

from aos_cli import ports
from aos_cli.checks import file_digest
from aos_cli.commands import program, run_command
from aos_cli.configs import (
    ChainPlace,
    ensure_password,
    make_keystore,
    write_dispatcher,
    write_operator,
    write_policy,
)
from aos_cli.data import DataFolder, Running, write_private
from aos_cli.embedded import EmbeddedPostgres, EmbeddedValkey
from aos_cli.embedded_chain import CHAIN_ID, EmbeddedChain
from aos_cli.failures import StackError
from aos_cli.models import calibration_file, missing_calibration, read_calibration
from aos_cli.progress import Progress
from aos_protocol.fields import EvidenceLevel
from aos_protocol.identity import Signer
from aos_protocol.messages import ModelOffer
from aos_service.child import Child
from aos_service.keys import open_keystore
from aos_service.logs import configure_logs
from aos_tee_worker.errors import SimulatorUnusable
from aos_tee_worker.simulator import ensure_root, measurements

PROJECT = "demo"

_LOAD_TIMEOUT_S = 900.0  # a large model comes from a slow disk
_START_TIMEOUT_S = 60.0
_WATCH_S = 0.1
_SOCKET_PATH_BYTES = 100
_LONGEST_SOCKET = "tee-worker-16.sock"


@dataclass(frozen=True)
class Plan:
    """What to run. `durable` False gives up the embedded servers' safety for speed, for data that is thrown away."""

    model: Path
    operators: int = 3
    enclaves: int = 0
    port: int = 0
    durable: bool = True
    chain: bool = False
    dispatchers: int = 1
    least_evidence: EvidenceLevel = "fingerprints"


@asynccontextmanager
async def running_stack(data: DataFolder, plan: Plan, progress: Progress) -> AsyncIterator["Stack"]:
    """Start a stack on a data folder, and stop all of it on leaving.

    Raises:
        StackError: when it does not start, or (out of the body) when a part ends meanwhile.
        ServiceError, CliError: what its parts say about that.
    """
    with data.locked(), ExitStack() as held:
        port = held.enter_context(ports.reserve(plan.port))
        others = [held.enter_context(ports.reserve(0)) for _ in range(1, plan.dispatchers)]
        direct = [ports.number(held.enter_context(ports.reserve(0))) for _ in range(plan.operators)]
        taken = [ports.number(holder) for holder in (port, *others)]
        stack = Stack(data, plan, progress, taken, held, direct_ports=direct)
        try:
            async with AsyncExitStack() as started:
                stack.will_stop(started)
                async with asyncio.TaskGroup() as tasks:
                    watching = tasks.create_task(stack.watch())
                    await stack.start()
                    with data.announced(stack.running()):
                        yield stack
                    watching.cancel()
        except BaseExceptionGroup as group:
            raise _first(group) from None


class Stack:
    """The parts of a stack; `running_stack` makes one."""

    def __init__(
        self,
        data: DataFolder,
        plan: Plan,
        progress: Progress,
        ports_: Sequence[int],
        held: ExitStack,
        *,
        direct_ports: Sequence[int] = (),
    ) -> None:
        self.data = data
        self.plan = plan
        self.urls = [f"http://{ports.LOOPBACK}:{port}" for port in ports_]
        self.url = self.urls[0]
        self.new_token: str | None = None
        self.warning: str | None = None
        self._progress = progress
        self._direct_ports = dict(zip(_numbered("operator", plan.operators), direct_ports, strict=False))
        self._sockets = _socket_folder(data.root / "run", held)
        self._postgres = EmbeddedPostgres(data.postgres, durable=plan.durable)
        self._valkey = EmbeddedValkey(data.valkey, durable=plan.durable)
        self._chain = EmbeddedChain(data.chain, data.logs / "anvil.log")
        self._place: ChainPlace | None = None
        self._digest: str | None = None
        self._operators: list[Child] = []
        self._watched: list[Child] = []
        self._workers = self._make_workers()
        self._config = data.config / "dispatcher.yaml"
        self._ports = dict(zip(_dispatchers(plan), ports_, strict=True))
        self._dispatchers = {name: self._make_dispatcher(name) for name in self._ports}

    @property
    def names(self) -> list[str]:
        """The operators' names: `operator-1` and so on, then `enclave-1` and so on."""
        return [*_numbered("operator", self.plan.operators), *_numbered("enclave", self.plan.enclaves)]

    def running(self) -> Running:
        """Return what other commands need to know to use this stack."""
        rpc = self._place.rpc if self._place else None
        return Running(pid=os.getpid(), url=self.url, project=PROJECT, model=self.plan.model.name, rpc=rpc)

    @property
    def chain(self) -> ChainPlace | None:
        """Where the chain and its contracts are; None without one, or before it is there."""
        return self._place

    def will_stop(self, started: AsyncExitStack) -> None:
        """Register the stops, which do nothing for parts that were not started; the last one here comes first."""
        for stop in (
            self._postgres.stop,
            self._valkey.stop,
            self._chain.stop,
            self._stop_workers,
            self._stop_dispatchers,
            self._stop_operators,
        ):
            started.push_async_callback(stop)

    async def watch(self) -> NoReturn:
        """Return never.

        Raises:
            StackError: when a part has ended.
        """
        while True:
            for child in self._watched:
                if child.returncode is not None:
                    raise StackError(f"{child.name} ended with status {child.returncode}. {child.log_tail()}")
            await asyncio.sleep(_WATCH_S)

    async def start(self) -> None:
        """Start every part; see the module's docstring.

        Raises:
            StackError, ServiceError, CliError: when one does not start; possibly in an exception group.
        """
        _check_kind(self.data, self.plan)
        async with asyncio.TaskGroup() as first:
            first.create_task(self._start_postgres())
            first.create_task(self._start_valkey())
            first.create_task(self._start_worker())
            first.create_task(self._start_enclaves())
            first.create_task(self._make_keys_and_chain())
        async with asyncio.TaskGroup() as second:
            second.create_task(run_command("operator-runner", "-i", self._postgres.url("operators")))
            second.create_task(self._start_dispatcher())
        async with asyncio.TaskGroup() as third:
            third.create_task(self._pin_model())
            third.create_task(self._ensure_project())
            third.create_task(self._start_operators())

    async def _start_postgres(self) -> None:
        with self._progress.step("PostgreSQL"):
            await self._postgres.start()
        self._watched.append(self._postgres.child)

    async def _start_valkey(self) -> None:
        with self._progress.step("Valkey"):
            await self._valkey.start()
        self._watched.append(self._valkey.child)

    async def _start_worker(self) -> None:
        if "worker" not in self._workers:
            return
        with self._progress.step("worker") as said:
            await self._until_loaded("worker")
            said.append(self.plan.model.name)

    async def _start_enclaves(self) -> None:
        """Make the simulator's root, which all enclaves share, then start them."""
        if not self.plan.enclaves:
            return
        with self._progress.step("enclaves") as said:
            await self._simulator_root()
            async with asyncio.TaskGroup() as starting:
                for name in _numbered("tee-worker", self.plan.enclaves):
                    starting.create_task(self._until_loaded(name))
            said.append(f"{self.plan.enclaves} SIMULATED, which prove nothing about hardware")

    async def _until_loaded(self, name: str) -> None:
        worker = self._workers[name]
        self._start(worker)
        transport = httpx.AsyncHTTPTransport(uds=str(self._socket(name)))
        async with httpx.AsyncClient(transport=transport, base_url="http://worker") as client:
            await worker.until_ready(_answers(client, "/healthz"), timeout_s=_LOAD_TIMEOUT_S)

    async def _make_keys_and_chain(self) -> None:
        await self._make_keys()
        if self.plan.chain:
            await self._start_chain()

    async def _start_chain(self) -> None:
        with self._progress.step("anvil") as said:
            await self._chain.start()
            self._watched.append(self._chain.child)
            said.append(f"chain {CHAIN_ID} at {self._chain.url}, a local test chain")
        with self._progress.step("contracts") as said:
            # It imports web3, which no stack without a chain needs.
            from aos_cli.local_chain import LocalNetwork, prepare

            configure_logs("aos", level="warning", json=False)
            known = [path.stem for path in sorted(self.data.keys.glob("*-*.json"))]
            others = [self._signer(name) for name in known if name not in self.names]
            network = LocalNetwork(
                self._signer("dispatcher"), [self._signer(name) for name in self.names], others
            )
            deployment = await prepare(self._chain, self.data.deployment, network)
            self._place = ChainPlace(self._chain.url, deployment)
            said.append(f"registry {deployment.registry}, {len(self.names)} operators registered")

    def _signer(self, name: str) -> Signer:
        return open_keystore(self.data.keystore(name), self.data.password.read_text(encoding="utf-8").strip())

    async def _make_keys(self) -> None:
        password = ensure_password(self.data).read_text(encoding="utf-8").strip()
        missing = [name for name in ("dispatcher", *self.names) if not self.data.keystore(name).exists()]
        if not missing:
            return
        with self._progress.step("keys") as said:
            for name in missing:
                await asyncio.to_thread(make_keystore, self.data, name, password)
            said.append(f"{len(missing)} made")

    async def _start_dispatcher(self) -> None:
        with self._progress.step("dispatcher") as said:
            policy = await self._write_policy()
            database = self._postgres.url("dispatcher")
            redis = self._valkey.url() if self.plan.dispatchers > 1 else None
            for name, port in self._ports.items():
                write_dispatcher(
                    self.data,
                    database,
                    port,
                    name=name,
                    redis=redis,
                    policy=policy,
                    chain=self._place,
                    least_evidence=self.plan.least_evidence,
                )
                self._start(self._dispatchers[name])
            for child, url in zip(self._dispatchers.values(), self.urls, strict=True):
                async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
                    await child.until_ready(_answers(client, "/readyz"), timeout_s=_START_TIMEOUT_S)
            said.append(f"{', '.join(self.urls)}  {self.data.address('dispatcher')}")

    async def _ensure_project(self) -> None:
        if self.data.token() is not None:
            return
        with self._progress.step("project") as said:
            output = await run_command("dispatcher", "project", "create", PROJECT, "-c", str(self._config))
            self.new_token = output.strip()
            write_private(self.data.token_file, output)
            said.append(PROJECT)

    async def _write_policy(self) -> Path | None:
        """Write which enclaves the dispatcher is to trust; None when there are none, and then take away what an earlier run wrote."""
        if not self.plan.enclaves:
            self.data.policy.unlink(missing_ok=True)
            return None
        root = await self._simulator_root()
        offer = ModelOffer(name=self.plan.model.name, sha256=await self._model_digest())
        return write_policy(self.data, offer, root=root, measurements=measurements())

    async def _simulator_root(self) -> str:
        try:
            return await asyncio.to_thread(ensure_root, self.data.simulator)
        except SimulatorUnusable as error:
            raise StackError(str(error)) from error

    async def _model_digest(self) -> str:
        if self._digest is None:
            self._digest = await asyncio.to_thread(file_digest, self.plan.model)
        return self._digest

    async def _pin_model(self) -> None:
        """Let the model's name stand for this file, for each type of job that there are workers for."""
        model = self.plan.model
        with self._progress.step("model") as said:
            found = read_calibration(model)
            digest = await self._model_digest()
            self.warning = missing_calibration(model, digest, found)
            judged = [] if self.warning else ["--calibration", str(calibration_file(model))]
            for job_type, workers in (("opml", self.plan.operators), ("tee", self.plan.enclaves)):
                if workers:
                    pin = ("model", "pin", model.name, digest, "--job-type", job_type, *judged)
                    await run_command("dispatcher", *pin, "-c", str(self._config))
            said.append(
                f"SHA-256 {digest[:16]}…, {'without a calibration' if self.warning else 'calibrated'}"
            )

    async def _start_operators(self) -> None:
        with self._progress.step("operators") as said:
            async with asyncio.TaskGroup() as starting:
                for name in self.names:
                    starting.create_task(self._start_operator(name))
            await self._all_connected()
            said.append(f"{len(self.names)} connected")

    async def _start_operator(self, name: str) -> None:
        if self._place is None:  # else the contract says who is registered
            address = self.data.address(name)
            await run_command("dispatcher", "operator", "add", address, "-c", str(self._config))
        enclave = name.startswith("enclave-")
        first = self.names.index(name) % len(self._ports)
        taken = list(self._ports.values())
        config = write_operator(
            self.data,
            name,
            database=self._postgres.url("operators"),
            queue=self._valkey.url(),
            dispatcher_ports=taken[first:] + taken[:first],
            worker=self._socket(name.replace("enclave-", "tee-worker-") if enclave else "worker"),
            model=self.plan.model.name,
            node_type="tee" if enclave else "opml",
            chain=self._place,
            direct_port=self._direct_ports.get(name),
        )
        operator = self._child(name, "operator-runner", "-c", str(config))
        self._operators.append(operator)
        self._start(operator)

    async def _all_connected(self) -> None:
        connected, deadline = 0, time.monotonic() + _START_TIMEOUT_S
        async with httpx.AsyncClient(base_url=self.url, trust_env=False) as client:
            while connected < len(self.names):
                if time.monotonic() > deadline:
                    logs = "\n".join(operator.log_tail() for operator in self._operators)
                    raise StackError(
                        f"{connected} of {len(self.names)} operators connected within {_START_TIMEOUT_S:g} s.\n{logs}"
                    )
                await asyncio.sleep(_WATCH_S / 2)
                connected = (await client.get("/readyz")).json().get("operators", 0)

    async def _stop_operators(self) -> None:
        await asyncio.gather(*(operator.stop() for operator in self._operators))

    async def _stop_dispatchers(self) -> None:
        await asyncio.gather(*(dispatcher.stop() for dispatcher in self._dispatchers.values()))

    async def _stop_workers(self) -> None:
        await asyncio.gather(*(worker.stop() for worker in self._workers.values()))

    def _make_workers(self) -> dict[str, Child]:
        """The operators' common worker, if there are any, and the enclaves, by name."""
        workers = {"worker": self._worker("worker", "inference-worker")} if self.plan.operators else {}
        for name in _numbered("tee-worker", self.plan.enclaves):
            simulated = ("--enclave", "simulated", "--simulator", str(self.data.simulator))
            workers[name] = self._worker(name, "tee-worker", *simulated)
        return workers

    def _make_dispatcher(self, name: str) -> Child:
        return self._child(name, "dispatcher", "run", "-c", str(self.data.config / f"{name}.yaml"))

    def _worker(self, name: str, command: str, *arguments: str) -> Child:
        where = ("--model", str(self.plan.model.absolute()), "--uds", str(self._socket(name)))
        return self._child(name, command, *arguments, *where)

    def _socket(self, name: str) -> Path:
        return self._sockets / f"{name}.sock"

    def _child(self, name: str, command: str, *arguments: str) -> Child:
        return Child(name, [program(command), *arguments], log=self.data.logs / f"{name}.log")

    def _start(self, child: Child) -> None:
        child.start()
        self._watched.append(child)


def _check_kind(data: DataFolder, plan: Plan) -> None:
    """Raise `StackError` where a network without a chain is to get one, or the other way: what was signed is valid in the one only."""
    if not data.postgres.exists() or data.chain.exists() == plan.chain:
        return
    kind, now = ("a", "without --chain") if data.chain.exists() else ("no", "with --chain")
    raise StackError(
        f"the network on {data.root} has {kind} chain, by which all that it signed is valid, and cannot be started {now}: choose "
        "another folder with --data"
    )


def _answers(client: httpx.AsyncClient, path: str) -> Callable[[], Awaitable[bool]]:
    """Whether a server answers this path with success, as a question to be asked again and again."""

    async def ask() -> bool:
        try:
            return (await client.get(path)).is_success
        except httpx.TransportError:
            return False

    return ask


def _dispatchers(plan: Plan) -> list[str]:
    """The names of the dispatcher's processes: `dispatcher`, `dispatcher-2` and so on."""
    return ["dispatcher", *(f"dispatcher-{number}" for number in range(2, plan.dispatchers + 1))]


def _numbered(name: str, count: int) -> list[str]:
    return [f"{name}-{number}" for number in range(1, count + 1)]


def _socket_folder(folder: Path, held: ExitStack) -> Path:
    """Where the workers listen: in the data folder, or in a temporary one when that path cannot stand in a socket's URL."""
    longest = folder / _LONGEST_SOCKET
    if len(os.fsencode(longest)) > _SOCKET_PATH_BYTES or not set("?#%").isdisjoint(str(folder)):
        return Path(held.enter_context(tempfile.TemporaryDirectory(prefix="aos-")))
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first single exception of nested groups: what happened first."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
