"""Asking an enclave's worker itself, wherever it listens: TCP, a unix socket or vsock."""

import httpx

from aos_cli.failures import BadAnswer, Unreachable
from aos_protocol.attestation.statement import Attestation
from aos_protocol.errors import InvalidMessage
from aos_protocol.fields import parse_message
from aos_service.transport import WorkerTransport

_TIMEOUT_S = 30.0


async def fetch_attestation(url: str, nonce: str) -> Attestation:
    """Return a fresh attestation of the worker at `url` on a nonce (64 hex digits), not appraised yet.

    Raises `WorkerUrlError` for what is no worker's URL, `Unreachable` when nothing answers there, and `BadAnswer` for anything else
    than an attestation.
    """
    transport = WorkerTransport(url)
    try:
        async with httpx.AsyncClient(
            transport=transport, base_url=transport.base_url, timeout=_TIMEOUT_S
        ) as client:
            response = await client.get("/attestation", params={"nonce": nonce})
        said = response.json()
    except httpx.TimeoutException as error:
        raise Unreachable(
            f"the worker at {url} did not answer in time: see its log, and try again"
        ) from error
    except httpx.TransportError as error:
        raise Unreachable(
            f"no worker answers at {url} ({str(error) or type(error).__name__}): start it, or correct the URL"
        ) from error
    except (ValueError, httpx.DecodingError) as error:
        raise BadAnswer(f"{url} is no enclave's worker: its answer to /attestation is not JSON") from error
    if response.is_error:
        why = said.get("message") if isinstance(said, dict) else None
        known = why is not None and response.status_code != httpx.codes.NOT_FOUND
        raise BadAnswer(
            f"the worker at {url} gives no attestation: {why if known else 'is it a tee-worker?'} (HTTP {response.status_code})"
        )
    try:
        return parse_message(Attestation, said)
    except InvalidMessage as error:
        raise BadAnswer(f"what the worker at {url} gives is no attestation: {error}") from error
