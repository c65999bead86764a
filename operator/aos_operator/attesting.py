"""Relays a dispatcher's call for a fresh attestation to the enclave, so that others can appraise it before they trust it."""

import asyncio
from typing import Any, Final

import structlog

from aos_operator.backends.protocol import Backend
from aos_operator.errors import Refused, WorkerRefused
from aos_protocol.attestation.statement import Attestation
from aos_protocol.canonical import JsonObject
from aos_protocol.errors import InvalidMessage
from aos_protocol.fields import parse_message
from aos_protocol.messages import Attest, ModelOffer

AT_ONCE: Final = 8
"""How many attestations the enclave is asked for at the same time; who comes then is told to come again."""

PATIENCE_S: Final = 10.0

_log = structlog.get_logger(__name__)


class Attesting:
    """Asks one worker for attestations; the whole wait is `patience` seconds at most."""

    def __init__(self, worker: Backend, patience: float = PATIENCE_S) -> None:
        self._worker = worker
        self._patience = patience
        self._asking = 0

    async def attest(self, call: Attest, model: ModelOffer) -> JsonObject:
        """Return the enclave's `Attestation` on the call's nonce, whose keyset is for this model.

        What its hardware has signed is not verified here: that is for whoever asked. Raises `WorkerUnavailable`, or `Refused`.
        """
        if self._asking >= AT_ONCE:
            raise Refused(429, f"{AT_ONCE} attestations are being made here already")
        self._asking += 1
        try:
            async with asyncio.timeout(self._patience):
                answer = await self._worker.attestation(call.nonce)
        except TimeoutError:
            raise Refused(504, f"the enclave gave no attestation within {self._patience:g} s") from None
        except WorkerRefused as error:
            raise Refused(502, f"the worker gives no attestation: {error}; is it a tee-worker?") from error
        finally:
            self._asking -= 1
        attestation = _checked(answer, model)
        _log.info("relayed an attestation", attestation=attestation.kind, model=model.name, nonce=call.nonce)
        return attestation.to_json()


def _checked(answer: dict[str, Any], model: ModelOffer) -> Attestation:
    try:
        attestation = parse_message(Attestation, answer)
    except InvalidMessage as error:
        raise Refused(502, f"the worker's attestation cannot be read: {error}") from error
    said = attestation.keyset.model
    if said != model:
        raise Refused(
            502, f"the enclave runs model {said.name} {said.sha256}, not {model.name} {model.sha256}"
        )
    return attestation
