"""The HTTP API of attestation: what the enclaves that are connected now say of themselves, on the caller's nonce."""

from typing import Annotated

from fastapi import APIRouter, Query

from aos_dispatcher.api import Service
from aos_dispatcher.openapi import ERRORS, AttestationAnswer
from aos_dispatcher.tables import JsonObject
from aos_protocol.fields import Hex32, ShortText

router = APIRouter(responses=ERRORS)


@router.get("/api/attestation", response_model=AttestationAnswer, response_model_exclude_none=True)
async def attestation(
    service: Service, model: Annotated[ShortText, Query()], nonce: Annotated[Hex32, Query()]
) -> JsonObject:
    """Have the connected enclaves of a model attested on a fresh nonce, 64 hex digits. No token is needed, and nothing is vouched for."""
    return {"code": 200, "result": await service.relay.ask(model, nonce)}
