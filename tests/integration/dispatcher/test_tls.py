"""TLS between real parts: projects and operators at a dispatcher's certificate, and operators' own where they are asked for."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from sysconfig import get_path
from typing import Any

import httpx
import pytest
import yaml
from structlog.testing import capture_logs
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedError

from aos_cli import ports
from aos_cli.client import DispatcherClient
from aos_cli.failures import Unreachable
from aos_dispatcher.operators import register_operator
from aos_dispatcher.settings import Tls
from aos_operator.runner import run_operator
from aos_operator.settings import OperatorSettings
from aos_operator.stub import StubWorker
from aos_protocol.identity import Signer
from aos_service.child import Child
from aos_service.tls import client_context
from support.certificates import Authority, Pair
from support.operators import MODEL

Networks = Callable[..., Any]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "this authority")


@pytest.fixture
def stranger(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "another authority")


@pytest.fixture
async def served(unstarted: Any, authority: Authority) -> AsyncIterator[Networks]:
    """Starts the dispatcher at a certificate for this machine's loopback, if not another; stops it in the end."""

    async def serve(*, client_ca: Path | None = None, pair: Pair | None = None) -> Any:
        shown = pair or authority.certify("dispatcher")
        tls = Tls(certificate=shown.certificate, key=shown.key, client_ca=client_ca)
        listen = unstarted.settings.listen.model_copy(update={"tls": tls})
        unstarted.settings = unstarted.settings.model_copy(update={"listen": listen})
        await unstarted.start()
        await unstarted.client.aclose()
        unstarted.url = f"https://127.0.0.1:{unstarted.client.base_url.port}"
        believed = client_context(authority.file)
        unstarted.client = httpx.AsyncClient(base_url=unstarted.url, verify=believed, timeout=10)
        await unstarted.calibrate()
        await unstarted.project()
        return unstarted

    yield serve
    await unstarted.stop()


@asynccontextmanager
async def operator(
    network: Any, database: str, queue: str, tls: dict[str, str] | None
) -> AsyncIterator[list[Any]]:
    """Run a registered operator, with these settings of `net.tls`, at the dispatcher; what is logged meanwhile."""
    signer = Signer.generate()
    await register_operator(network.dispatcher.database, signer.address)
    net = {"dispatcher_url": network.url} | ({"tls": tls} if tls else {})
    settings = OperatorSettings.model_validate(
        {
            "db": {"pg_db_url": database, "min_connect_pool": 1, "max_connect_pool": 2},
            "queue": {"queue_url": queue},
            "net": net,
            "node": {
                "signer_key": signer.secret.hex(),
                "dispatcher_address": network.signer.address,
                "heartbeat_interval": 10,
            },
        }
    )
    stop = asyncio.Event()
    with capture_logs() as logs:
        running = asyncio.create_task(
            run_operator(settings, stop, worker=StubWorker({MODEL.name: MODEL.sha256}))
        )
        try:
            yield logs
        finally:
            stop.set()
            await running


async def first(logs: list[Any], event: str) -> dict[str, Any]:
    """Wait for a line in the log."""
    while not (found := [log for log in logs if log["event"] == event]):
        await asyncio.sleep(0.02)
    line: dict[str, Any] = found[0]
    return line


@pytest.fixture
async def ready(new_database: Any, redis_url: str) -> tuple[str, str]:
    """An operator's database and queue."""
    return await new_database("operator"), redis_url


async def test_a_job_goes_all_the_way_over_tls(
    served: Networks, ready: tuple[str, str], authority: Authority
) -> None:
    network = await served()
    async with operator(network, *ready, {"ca": str(authority.file)}) as logs:
        await first(logs, "connected to the dispatcher")
        job_id = await network.submit()
        assert (await network.finished(job_id))["status"] == "completed"
        unpassed = await network.unpassed(job_id)
        assert [said.split()[:2] for said in unpassed] == [["AOS-MATCH-1", "SKIP"]]  # nobody scored it
        async with DispatcherClient(network.url, ca=authority.file) as client:
            assert (await client.detail(job_id))["status"] == "completed"


async def test_an_operator_shows_its_certificate_where_it_is_asked_for(
    served: Networks, ready: tuple[str, str], authority: Authority, stranger: Authority
) -> None:
    """The authority of operators need not be the one of dispatchers; projects need no certificate."""
    network = await served(client_ca=stranger.file)
    own = stranger.certify("operator")
    tls = {"ca": str(authority.file), "certificate": str(own.certificate), "key": str(own.key)}
    async with operator(network, *ready, tls) as logs:
        await first(logs, "connected to the dispatcher")
        assert (await network.finished(await network.submit()))["status"] == "completed"


async def test_an_operator_without_a_certificate_is_told_what_is_missing(
    served: Networks, ready: tuple[str, str], authority: Authority
) -> None:
    network = await served(client_ca=authority.file)
    async with operator(network, *ready, {"ca": str(authority.file)}) as logs:
        line = await first(logs, "not connected to the dispatcher")
    assert (
        "operators need a client certificate here: set net.tls.certificate and net.tls.key" in line["problem"]
    )
    assert (await network.client.get("/readyz")).json()["operators"] == 0


@pytest.mark.parametrize(
    ("of", "lifetime", "why"),
    [
        ("stranger", timedelta(days=1), "unable to get local issuer certificate"),
        ("authority", None, "certificate has expired"),
    ],
)
async def test_a_client_certificate_that_is_no_good_is_refused_and_both_sides_say_so(
    served: Networks,
    ready: tuple[str, str],
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    of: str,
    lifetime: timedelta | None,
    why: str,
) -> None:
    authority: Authority = request.getfixturevalue("authority")
    network = await served(client_ca=authority.file)
    own = request.getfixturevalue(of).certify("operator", lifetime=lifetime or timedelta(days=-1))
    if lifetime is None:  # the operator itself would notice at its start, but not later
        monkeypatch.setattr("aos_service.tls.datetime", _LongAgo)
    tls = {"ca": str(authority.file), "certificate": str(own.certificate), "key": str(own.key)}
    async with operator(network, *ready, tls) as logs:
        line = await first(logs, "not connected to the dispatcher")
        refused = await first(logs, "a client certificate was refused")
    assert "is net.tls.certificate one of its client_ca, and still valid?" in line["problem"]
    assert refused["why"] == why
    assert (await network.client.get("/readyz")).json()["operators"] == 0


class _LongAgo:
    """A clock that is far behind."""

    @staticmethod
    def now(_zone: object) -> Any:
        from datetime import UTC, datetime

        return datetime(2020, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("host", "lifetime", "of", "why"),
    [
        ("127.0.0.1", timedelta(days=1), "stranger", "unable to get local issuer certificate"),
        ("127.0.0.1", timedelta(days=-1), "authority", "certificate has expired"),
        (
            "127.0.0.2",
            timedelta(days=1),
            "authority",
            "IP address mismatch, certificate is not valid for '127.0.0.1'.",
        ),
    ],
)
async def test_a_dispatcher_that_cannot_prove_its_name_is_not_spoken_to(
    served: Networks,
    ready: tuple[str, str],
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    host: str,
    lifetime: timedelta,
    of: str,
    why: str,
) -> None:
    authority: Authority = request.getfixturevalue("authority")
    pair = request.getfixturevalue(of).certify("elsewhere", host=host, lifetime=lifetime)
    with monkeypatch.context() as patched:  # the dispatcher itself would notice at its start, but not later
        patched.setattr("aos_service.tls.datetime", _LongAgo)
        network = await served(pair=pair)
    async with operator(network, *ready, {"ca": str(authority.file)}) as logs:
        line = await first(logs, "not connected to the dispatcher")
    said = f"the other side's certificate is not believed: {why}"
    assert f"cannot connect ({said}; is it of an authority in net.tls.ca?)" in line["problem"]
    async with DispatcherClient(network.url, token="aos_secret", ca=authority.file) as client:
        with pytest.raises(Unreachable) as caught:
            await client.ready()
    assert str(caught.value) == f"{network.url}: {said}; aos --ca FILE names whom to believe"


async def test_the_clear_is_not_served_beside_tls(served: Networks) -> None:
    network = await served()
    async with httpx.AsyncClient(base_url=network.url.replace("https", "http")) as client:
        with pytest.raises(httpx.TransportError):
            await client.get("/healthz")


async def test_browsers_are_told_to_insist_on_tls_where_it_is_served(served: Networks) -> None:
    network = await served()
    answer = await network.client.get("/healthz")
    assert answer.headers["strict-transport-security"] == "max-age=31536000"


async def test_the_command_serves_tls_by_its_settings(
    new_database: Any, tmp_path: Path, authority: Authority
) -> None:
    """A real process, with everything that `dispatcher run` puts around the application."""
    server, own = authority.certify("server"), authority.certify("operator")
    with ports.reserve(0) as held:
        port = ports.number(held)
        tls = {
            "certificate": str(server.certificate),
            "key": str(server.key),
            "client_ca": str(authority.file),
        }
        settings = {
            "database": {
                "url": await new_database("dispatcher"),
                "min_connect_pool": 1,
                "max_connect_pool": 4,
            },
            "identity": {"signer_key": "11" * 32},
            "listen": {"port": port, "tls": tls},
        }
        config = tmp_path / "dispatcher.yaml"
        config.write_text(yaml.safe_dump(settings))
        config.chmod(0o600)
        command = [f"{get_path('scripts')}/dispatcher", "run", "-c", str(config)]
        child = Child("dispatcher", command, log=tmp_path / "dispatcher.log")
        context = client_context(authority.file)
        async with httpx.AsyncClient(base_url=f"https://127.0.0.1:{port}", verify=context) as client:

            async def ready() -> bool:
                try:
                    return (await client.get("/readyz")).is_success
                except httpx.TransportError:
                    return False

            child.start()
            try:
                await child.until_ready(ready, timeout_s=40)
                assert "server" not in (await client.get("/readyz")).headers
                url = f"wss://127.0.0.1:{port}/ws"
                async with connect(url, ssl=context, proxy=None) as stranger:
                    with pytest.raises(
                        ConnectionClosedError, match="operators need a client certificate here"
                    ):
                        await stranger.recv()
                shown = client_context(authority.file, own.certificate, own.key)
                async with connect(url, ssl=shown, proxy=None) as known:
                    assert json.loads(await known.recv())["method"] == "challenge"
            finally:
                await child.stop()


async def test_a_certificate_that_cannot_be_used_ends_the_command_with_one_line(
    new_database: Any, tmp_path: Path, authority: Authority
) -> None:
    expired = authority.certify("server", lifetime=timedelta(days=-1))
    tls = {"certificate": str(expired.certificate), "key": str(expired.key)}
    config = tmp_path / "dispatcher.yaml"
    database = {"url": await new_database("dispatcher")}
    identity = {"signer_key": "11" * 32}
    config.write_text(yaml.safe_dump({"database": database, "identity": identity, "listen": {"tls": tls}}))
    config.chmod(0o600)
    command = [f"{get_path('scripts')}/dispatcher", "run", "--log-level", "error", "-c", str(config)]
    ran = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    _, said = await ran.communicate()
    assert ran.returncode == 1
    assert said.decode().startswith(f"dispatcher: the TLS certificate {expired.certificate} expired on ")
    assert len(said.splitlines()) == 1
