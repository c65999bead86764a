"""Whether an operator could run with its settings: key, PostgreSQL, Redis, worker or backends, and the dispatcher that it names."""

import asyncio
import secrets
from pathlib import Path

from redis.exceptions import RedisError
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from aos_cli.doctor_chain import registered
from aos_cli.errors import CliError
from aos_cli.findings import Finding, Findings, find
from aos_cli.workers import fetch_attestation
from aos_operator.backends.build import open_backend
from aos_operator.backends.settings import BackendSettings
from aos_operator.backends.worker import HttpWorker
from aos_operator.database import check_tables
from aos_operator.offer import select_models
from aos_operator.queue import connect_redis
from aos_operator.settings import OperatorSettings
from aos_protocol.frames import open_frame
from aos_protocol.identity import Signer
from aos_service.database import describe
from aos_service.errors import SettingsError
from aos_service.keys import load_signer
from aos_service.settings import load_settings

_TIMEOUT_S = 10.0


async def operator_findings(file: Path) -> Findings:
    """Look at everything that these settings name; nothing is changed."""
    try:
        settings = load_settings(file, OperatorSettings)
    except SettingsError as error:
        for problem in error.problems:
            yield Finding("FAIL", "operator settings", problem)
        return
    yield Finding("PASS", "operator settings", str(file))
    yield await find("operator key", lambda: _key(settings, file))
    yield await find("operator database", lambda: _database(settings))
    yield await find("operator queue", lambda: _queue(settings))
    if settings.has_worker:
        yield await find("operator worker", lambda: _worker(settings))
    for number, entry in enumerate(settings.backends, 1):
        yield await find(f"operator backend {number}", lambda: _backend(entry))  # noqa: B023 (awaited at once)
    if settings.node.node_type == "tee":
        yield await find("operator enclave", lambda: _enclave(settings))
    rpc, registry = settings.chain.chain_rpc_url, settings.chain.vrf_range_contract
    if rpc is not None and registry is not None:
        yield await find("operator chain", lambda: _chain(settings, file, rpc.get_secret_value(), registry))
    yield await find("operator dispatcher", lambda: _dispatcher(settings))


async def _signer(settings: OperatorSettings, file: Path) -> Signer:
    node = settings.node
    return await asyncio.to_thread(
        load_signer,
        node.signer_key,
        keystore=node.keystore,
        password_file=node.keystore_password_file,
        file=file,
    )


async def _key(settings: OperatorSettings, file: Path) -> str:
    node, signer = settings.node, await _signer(settings, file)
    if node.node_id not in {None, signer.address}:
        raise CliError(
            f"node.node_id is {node.node_id}, the key is that of {signer.address}: correct one of them"
        )
    return f"opens, and is that of {signer.address}"


async def _database(settings: OperatorSettings) -> str:
    url = settings.db.url()
    await check_tables(url)
    return f"{describe(url)} is up to date"


async def _queue(settings: OperatorSettings) -> str:
    client = connect_redis(settings.queue.queue_url.get_secret_value())
    try:
        await client.ping()
    except RedisError as error:
        raise CliError(
            f"queue.queue_url: Redis does not answer ({error}): start it, or correct the URL"
        ) from error
    finally:
        await client.aclose()
    return "Redis answers"


async def _worker(settings: OperatorSettings) -> str:
    worker = HttpWorker(settings.worker_url, _TIMEOUT_S)
    try:
        chosen, missing = select_models(await worker.models(), settings.node.ai_models)
    finally:
        await worker.close()
    if missing:
        raise CliError(
            f"node.ai_models: the worker at {settings.worker_url} does not have {', '.join(missing)}"
        )
    return f"{settings.worker_url} serves {', '.join(sorted(chosen))}"


async def _backend(entry: BackendSettings) -> str:
    """Say what one of the settings' backends serves now."""
    backend = open_backend(entry, _TIMEOUT_S)
    try:
        models = await backend.models()
    finally:
        await backend.close()
    if not models:
        raise CliError(
            f"{entry.kind}: it serves nothing of what its models name now: load it there, or correct them"
        )
    served = ", ".join(sorted(f"{model.name} ({model.evidence})" for model in models))
    return f"{entry.kind} serves {served}"


async def _enclave(settings: OperatorSettings) -> str:
    """Say what the worker's enclave says of itself; whether to believe it is for a policy, and `aos attest`."""
    url = settings.worker_url
    attestation = await fetch_attestation(url, secrets.token_hex(32))
    keyset = attestation.keyset
    kind = "SIMULATED, which proves nothing" if attestation.kind == "simulated" else attestation.kind
    hours = (keyset.expires_at - attestation.issued_at) / 3600
    return (
        f"{kind}: {keyset.build}, keyset {keyset.digest()[:16]}… for {hours:.1f} h more; aos attest {url} --policy FILE holds it "
        "against a policy"
    )


async def _chain(settings: OperatorSettings, file: Path, rpc: str, registry: str) -> str:
    return await registered(rpc, registry, (await _signer(settings, file)).address)


async def _dispatcher(settings: OperatorSettings) -> str:
    """Look at every process of the dispatcher that the settings name."""
    found = [await _challenge(url, settings.node.dispatcher_address) for url in settings.net.dispatcher_url]
    return ", ".join(found)


async def _challenge(url: str, expected: str) -> str:
    """Read the challenge that a dispatcher opens every connection with: it is signed with the dispatcher's key."""
    try:
        async with asyncio.timeout(_TIMEOUT_S), connect(url, proxy=None) as socket:
            frame = open_frame(await socket.recv())
    except (OSError, TimeoutError, WebSocketException) as error:
        raise CliError(
            f"net.dispatcher_url: no dispatcher at {url} ({str(error) or type(error).__name__})"
        ) from error
    if frame.address != expected:
        raise CliError(f"node.dispatcher_address is {expected}, at {url} answers {frame.address}")
    return f"{url} is {expected}"
