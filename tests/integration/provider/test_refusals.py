"""Whatever a provider needs and does not find, it says what that is and what to do about it."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from structlog.testing import capture_logs
from websockets.asyncio.server import ServerConnection, serve

from aos_cli.errors import CliError
from aos_cli.provider_dispatcher import DispatcherAway, WrongServerKey, meet
from aos_cli.provider_hello import ModelServerFailed
from aos_cli.provider_run import ProviderStopped, running
from aos_cli.provider_settings import ProviderSettings, ServerKey, memory_file
from aos_cli.provider_steps import Steps
from aos_dispatcher.settings import Verification
from aos_protocol.frames import open_frame, seal_request
from aos_protocol.identity import Signer
from aos_service.tls import client_context
from integration.dispatcher.conftest import Network
from integration.provider.conftest import KEY, PROVIDER, SIGNER
from integration.provider.fake_model_server import FakeModelServer
from support.certificates import Authority
from unit.operator.world import World

WORLD = World()
POINT = WORLD.signer.public_key.hex()


@asynccontextmanager
async def speaking(
    *texts: str | bytes, heard: list[Any] | None = None, tls: ssl.SSLContext | None = None
) -> AsyncIterator[str]:
    """A server of WebSockets that says this to whoever comes, and then listens."""

    async def meet(socket: ServerConnection) -> None:
        for text in texts:
            await socket.send(text)
        async for message in socket:
            if heard is not None:
                heard.append(message)

    async with serve(meet, "127.0.0.1", 0, ssl=tls) as server:
        yield f"{'ws' if tls is None else 'wss'}://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}/ws"


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port on which nobody listens, and nobody can."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


class TestDispatcher:
    @pytest.mark.parametrize("key", [POINT, POINT[2:], POINT[2:].upper(), WORLD.signer.address])
    async def test_the_pinned_one_is_believed_and_nothing_is_said_to_it(self, key: str) -> None:
        heard: list[Any] = []
        async with speaking(WORLD.challenge(), heard=heard) as url:
            assert await meet(url, ServerKey(key), None) == WORLD.signer.address
        assert heard == []

    @pytest.mark.parametrize(
        "key",
        [
            Signer(b"\x33" * 32).public_key.hex(),
            Signer(b"\x33" * 32).public_key.hex()[2:],
            Signer(b"\x33" * 32).address,
            ("03" if POINT.startswith("02") else "02") + POINT[2:],
        ],
    )
    async def test_another_is_refused_before_anything_is_said_to_it(self, key: str) -> None:
        heard: list[Any] = []
        async with speaking(WORLD.challenge(), heard=heard) as url:
            with pytest.raises(WrongServerKey, match="nothing was said to it") as caught:
                await meet(url, ServerKey(key), None)
        assert WORLD.signer.address in str(caught.value)
        assert heard == []

    async def test_a_challenge_that_somebody_else_signed_is_none(self) -> None:
        stranger = Signer(b"\x33" * 32)
        challenge = World(signer=stranger).challenge()
        param = {**open_frame(challenge).params[0], "public_key": POINT, "dispatcher": WORLD.signer.address}
        forged = seal_request(stranger, "1", "challenge", [param]).text
        async with speaking(forged) as url:
            with pytest.raises(WrongServerKey, match="another key than it is signed by"):
                await meet(url, ServerKey(POINT), None)

    @pytest.mark.parametrize("said", ["hello", "{}", b"\x00\xff", "[]"])
    async def test_what_speaks_otherwise_is_no_dispatcher(self, said: str | bytes) -> None:
        async with speaking(said) as url:
            with pytest.raises(DispatcherAway, match="no AOS dispatcher"):
                await meet(url, ServerKey(POINT), None)

    async def test_a_page_of_the_web_is_no_dispatcher(self, server: FakeModelServer) -> None:
        with pytest.raises(DispatcherAway, match="correct serverUrl"):
            await meet(f"ws://127.0.0.1:{server.port}/ws", ServerKey(POINT), None)

    async def test_over_tls_an_authority_has_to_vouch_for_the_name_besides(self, tmp_path: Path) -> None:
        authority, stranger = Authority(tmp_path, "ours"), Authority(tmp_path, "another")
        pair = authority.certify("dispatcher")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair.certificate, pair.key)
        async with speaking(WORLD.challenge(), tls=context) as url:
            believed = client_context(authority.file)
            assert await meet(url, ServerKey(POINT), believed) == WORLD.signer.address
            with pytest.raises(DispatcherAway, match=r"certificate is not believed.*aos --ca FILE provider"):
                await meet(url, ServerKey(POINT), client_context(stranger.file))

    async def test_nobody_is_no_dispatcher(self, closed_port: int) -> None:
        with pytest.raises(DispatcherAway, match="`aos up`"):
            await meet(f"ws://127.0.0.1:{closed_port}/ws", ServerKey(POINT), None)


async def failing(
    settings: dict[str, Any], kind: type[CliError], registration_port: int | None = None
) -> tuple[str, list[str]]:
    """Run a provider that cannot; why it says so, and its steps until then."""
    with capture_logs() as logs:
        checked, steps = ProviderSettings.model_validate(settings), Steps(watched=False)
        async with running(checked, steps, None, registration_port) as provider:
            with pytest.raises(kind) as caught:
                await provider.run(asyncio.Event())
    return str(caught.value), [log["event"] for log in logs]


@pytest.fixture(autouse=True)
def _quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is kept from test to test, and the key is derived once only: that takes half a second, by design."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setattr("aos_cli.provider_run.derive", lambda _secret: SIGNER)


class TestModelServer:
    @pytest_asyncio.fixture
    async def settings(self, server: FakeModelServer) -> AsyncIterator[dict[str, Any]]:
        async with speaking(WORLD.challenge()) as url:
            yield {
                "apiHostname": "127.0.0.1",
                "apiPort": server.port,
                "modelName": "llama3:8b",
                "name": "twinnydotdev",
                "serverUrl": url,
                "serverKey": POINT[2:],
                "userSecret": "correct horse battery staple",
            }

    async def test_one_that_is_not_there(self, settings: dict[str, Any], closed_port: int) -> None:
        settings["apiPort"] = closed_port
        said, steps = await failing(settings, ModelServerFailed)
        assert "start your model server" in said
        assert f"http://127.0.0.1:{settings['apiPort']}" in said
        assert steps[-1] == "sending a test request"

    async def test_one_without_the_model_says_which_it_has(
        self, server: FakeModelServer, settings: dict[str, Any]
    ) -> None:
        server.models = ["llama3.1:latest", "codellama:7b"]
        said, _ = await failing(settings, ModelServerFailed)
        assert "does not have modelName llama3:8b: it has llama3.1:latest, codellama:7b" in said

    async def test_one_that_wants_a_key(self, server: FakeModelServer, settings: dict[str, Any]) -> None:
        server.key = KEY
        said, _ = await failing({**settings, "apiKey": "sk-wrong-0123"}, ModelServerFailed)
        assert "apiKey" in said
        assert "Incorrect API key" in said
        assert "sk-wrong-0123" not in said

    async def test_one_that_fails(self, server: FakeModelServer, settings: dict[str, Any]) -> None:
        server.broken = True
        said, _ = await failing(settings, ModelServerFailed)
        assert "the runner has ended unexpectedly" in said
        assert "aos doctor --backend http://127.0.0.1" in said

    async def test_one_that_knows_the_model_by_a_longer_name(
        self, server: FakeModelServer, settings: dict[str, Any]
    ) -> None:
        """Ollama takes llama3 for llama3:latest, and lists it by its whole name only."""
        server.listed = ["llama3:8b-instruct"]
        said, _ = await failing(settings, ModelServerFailed)
        assert "lists llama3:8b-instruct" in said
        assert "modelName" in said

    async def test_one_that_does_not_stream(self, server: FakeModelServer, settings: dict[str, Any]) -> None:
        server.streams = False
        said, steps = await failing(settings, ModelServerFailed)
        assert "does not stream" in said
        assert "checking the stream" not in steps

    async def test_a_registration_port_that_is_taken_is_named(
        self, server: FakeModelServer, settings: dict[str, Any]
    ) -> None:
        said, _ = await failing(settings, ProviderStopped, server.port)
        assert f"port {server.port} of 127.0.0.1 cannot be used for registrations" in said

    async def test_a_memory_that_is_no_memory_is_named(
        self, settings: dict[str, Any], tmp_path: Path
    ) -> None:
        file = memory_file(PROVIDER)
        assert tmp_path in file.parents
        file.parent.mkdir(parents=True)
        file.write_text("no database" * 1000)
        said, _ = await failing(settings, ProviderStopped)
        assert f"{file} cannot be used" in said


class TestAdmission:
    async def test_one_that_is_not_let_in_is_told_what_the_owner_has_to_do(
        self, new_database: Callable[[str], Awaitable[str]], server: FakeModelServer
    ) -> None:
        network = Network(await new_database("dispatcher"))
        await network.start()
        try:
            settings = {
                "apiHostname": "127.0.0.1",
                "apiPort": server.port,
                "modelName": "llama3:8b",
                "name": "twinnydotdev",
                "serverUrl": network.ws,
                "serverKey": network.signer.address,
                "userSecret": "correct horse battery staple",
            }
            said, steps = await failing(settings, ProviderStopped)
            assert "llama3:8b shows text" in said
            assert "`verification.least_evidence: text`" in said
            assert steps[-1] != "serving"
            await network.stop()
            network.settings = network.settings.model_copy(
                update={"verification": Verification(least_evidence="text")}
            )
            await network.start()
            said, steps = await failing({**settings, "serverUrl": network.ws}, ProviderStopped)
            assert f"dispatcher operator add {PROVIDER}" in said
            assert "the test call succeeded" in steps
            assert "serving" not in steps
        finally:
            await network.stop()
