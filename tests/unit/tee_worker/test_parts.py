"""The small parts around the enclave: its heart, its socket, its command line and its orders."""

import asyncio
import errno
import logging
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from typer.testing import CliRunner

from aos_inference.engine import Load
from aos_inference.errors import AddressInUse, StartupError
from aos_inference.options import ServeOptions
from aos_inference.server import describe
from aos_tee_worker import enclave, heart, main, sockets
from aos_tee_worker.enclave import places
from aos_tee_worker.errors import CollateralUnreadable
from aos_tee_worker.heart import Heart
from aos_tee_worker.orders import EnclaveOptions, Orders
from aos_tee_worker.supervisor import Restarts, enclave_command


class FakeEngine:
    """So many active jobs and steps as a test says."""

    def __init__(self) -> None:
        self.active, self.steps = 0, 0

    @property
    def load(self) -> Load:
        return Load(self.active, 0, 0)


class Pipe:
    """Both ends of a pipe."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        self.open_ends = [self.reading, self.writing]
        os.set_blocking(self.reading, False)

    def __enter__(self) -> "Pipe":
        return self

    def __exit__(self, *_: object) -> None:
        for end in self.open_ends:
            os.close(end)


def test_an_engine_gets_on_while_it_is_idle_or_makes_steps() -> None:
    engine = FakeEngine()
    with Pipe() as pipe:
        pulse = Heart(pipe.writing, engine, stalled=300)
        assert pulse.gets_on(1000)
        engine.active = 1
        assert pulse.gets_on(5000 - 4000 + 299)
        assert not pulse.gets_on(1300)
        engine.steps = 1  # a batch of a long prompt was read
        assert pulse.gets_on(1301)
        assert pulse.gets_on(1600)
        assert not pulse.gets_on(1602)
        engine.active = 0
        assert pulse.gets_on(9000)
        engine.active = 1
        assert pulse.gets_on(9299), "time without a job is not the job's"


async def test_a_heart_beats_while_the_engine_gets_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heart, "BEAT_S", 0)
    engine = FakeEngine()
    with Pipe() as pipe:
        engine.active = 1
        beating = asyncio.create_task(Heart(pipe.writing, engine, stalled=0.05).beat())
        async with asyncio.timeout(10):
            while not _read(pipe.reading):
                await asyncio.sleep(0)
            while _read(pipe.reading):  # until the engine has made no step for too long
                await asyncio.sleep(0.06)
            engine.steps += 1
            while not _read(pipe.reading):
                await asyncio.sleep(0)
        beating.cancel()
        await asyncio.gather(beating, return_exceptions=True)


async def test_beats_that_nobody_reads_are_no_reason_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heart, "BEAT_S", 0)
    with Pipe() as pipe:
        beating = asyncio.create_task(Heart(pipe.writing, FakeEngine()).beat())
        os.set_blocking(pipe.writing, False)
        try:
            while True:
                os.write(pipe.writing, bytes(4096))
        except BlockingIOError:
            pass
        for _ in range(9):
            await asyncio.sleep(0)
        assert not beating.done()
        beating.cancel()
        await asyncio.gather(beating, return_exceptions=True)


async def test_without_a_supervisor_the_enclave_stops_itself() -> None:
    stopped = []
    before = signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
    try:
        with Pipe() as pipe:
            os.close(pipe.open_ends.pop(0))
            await Heart(pipe.writing, FakeEngine()).beat()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert stopped == [True]


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except BlockingIOError:
        return b""


class FakeSocket:
    """A socket of a family that this machine need not have."""

    def __init__(self, family: socket.AddressFamily, kind: socket.SocketKind, failure: int = 0) -> None:
        self.family, self.kind, self.failure = family, kind, failure
        self.bound: object = None
        self.closed = False

    def bind(self, address: object) -> None:
        if self.failure:
            raise OSError(self.failure, os.strerror(self.failure))
        self.bound = address

    def getsockname(self) -> object:
        return self.bound

    def close(self) -> None:
        self.closed = True


def test_vsock_is_bound_on_every_cid() -> None:
    made = sockets.listen_vsock(5005, FakeSocket)  # type: ignore[arg-type]
    assert (made.family, made.kind) == (socket.AF_VSOCK, socket.SOCK_STREAM)
    assert made.bound == (socket.VMADDR_CID_ANY, 5005)
    assert describe(made) == "vsock port 5005"


def test_a_vsock_port_that_is_taken() -> None:
    made: list[FakeSocket] = []

    def new(family: socket.AddressFamily, kind: socket.SocketKind) -> FakeSocket:
        made.append(FakeSocket(family, kind, errno.EADDRINUSE))
        return made[-1]

    with pytest.raises(
        AddressInUse, match=r"vsock port 5005: Address already in use. Choose another --vsock"
    ):
        sockets.listen_vsock(5005, new)  # type: ignore[arg-type]
    assert made[0].closed


def test_a_machine_without_vsock() -> None:
    def new(*_: object) -> FakeSocket:
        raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))

    with pytest.raises(AddressInUse, match=r"no vsock .* or else --uds"):
        sockets.listen_vsock(5005, new)  # type: ignore[arg-type]


def options(**changes: object) -> EnclaveOptions:
    given = {
        "kind": "tdx",
        "serve": ServeOptions(path=Path("/m.gguf"), name="m"),
        "simulator": None,
        "collateral": None,
        "memory_limit": None,
        "keyset_lifetime": 60,
        "log_level": "info",
    }
    return EnclaveOptions.model_validate(given | changes)


def test_orders_survive_the_command_line() -> None:
    orders = Orders(
        options=options(memory_limit=64), listener=5, heartbeat=7, restarts=Restarts(crashed=1, hung=2)
    )
    *_, module, text = enclave_command(orders.model_dump_json())
    assert module == "aos_tee_worker.enclave"
    assert Orders.model_validate_json(text) == orders


def test_restarts_are_counted_by_reason() -> None:
    assert Restarts().after("hung").after("crashed").after("hung") == Restarts(crashed=1, hung=2)


def test_collateral_is_a_json_object(tmp_path: Path) -> None:
    path = tmp_path / "collateral.json"
    path.write_text('{"tcb_info": "x"}')
    assert enclave._collateral(path) == {"tcb_info": "x"}
    assert enclave._collateral(None) is None
    for text in ("[1]", "{"):
        path.write_text(text)
        with pytest.raises(CollateralUnreadable, match=r"collateral\.json"):
            enclave._collateral(path)
    with pytest.raises(CollateralUnreadable, match="absent"):
        enclave._collateral(tmp_path / "absent")


def test_kinds_that_no_device_is_for() -> None:
    for kind in ("sev-snp", "simulated"):
        with pytest.raises(StartupError, match=f"kind {kind}"):
            enclave._device(options(kind=kind))


def test_places_of_a_chain_of_exceptions() -> None:
    try:
        try:
            int("a secret")
        except ValueError as error:
            raise RuntimeError("a secret") from error
    except RuntimeError as error:
        found = places(error)
    assert [each.split(" at ")[0] for each in found] == ["RuntimeError", "ValueError"]
    assert all("test_parts.py:" in each and "secret" not in each for each in found)


@pytest.fixture
def _restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    structlog.contextvars.clear_contextvars()
    structlog.reset_defaults()


@pytest.mark.usefixtures("_restored_logging")
class TestCommand:
    """What needs no enclave."""

    @staticmethod
    def run(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(main.app, ["--model", "m.gguf", *arguments])
        return result.exit_code, result.stderr

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            ([], "Missing option '--enclave'"),
            (["--enclave", "sev-snp"], "'sev-snp' is not one of"),
            (["--enclave", "simulated"], "--simulator DIR belongs to --enclave simulated"),
            (["--enclave", "nitro", "--simulator", "d"], "--simulator DIR belongs to --enclave simulated"),
            (["--enclave", "nitro", "--collateral", "c"], "--collateral belongs to --enclave tdx"),
            (["--enclave", "tdx", "--memory-limit", "64"], "--memory-limit belongs to"),
            (["--enclave", "nitro", "--uds", "s", "--vsock", "5"], "give one of --uds and --vsock"),
            (["--enclave", "nitro", "--keyset-lifetime", "1"], "--keyset-lifetime"),
        ],
    )
    def test_options_that_do_not_fit(self, arguments: list[str], said: str) -> None:
        code, told = self.run(*arguments)
        assert code == 2
        assert said in " ".join(told.replace("│", " ").split())

    def test_a_socket_that_cannot_be_made(self, tmp_path: Path) -> None:
        path = tmp_path / "precious"
        path.write_text("data")
        code, told = self.run("--enclave", "nitro", "--uds", str(path))
        assert code == 1
        assert told.startswith(f"tee-worker: {path} is a file, not a socket")
        assert path.read_text() == "data"

    def test_help_shows_both_worlds(self) -> None:
        shown = CliRunner().invoke(main.app, ["--help"]).stdout
        assert "--enclave simulated --simulator" in shown
        assert "--enclave nitro --model /model.gguf --vsock 5005" in shown
