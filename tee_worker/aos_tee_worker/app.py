"""What the enclave's HTTP API has beside the inference worker's: attestation and metrics."""

import asyncio
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Query, Response

from aos_inference.app import the_worker
from aos_inference.schemas import Problem
from aos_inference.worker import Worker
from aos_protocol.attestation.statement import Attestation
from aos_tee_worker.metrics import CONTENT_TYPE
from aos_tee_worker.worker import TeeWorker

_PROBLEMS: Final[dict[int | str, dict[str, Any]]] = {status: {"model": Problem} for status in (422, 503)}

router = APIRouter()


async def the_enclave(worker: Annotated[Worker, Depends(the_worker)]) -> TeeWorker:
    """The worker, which is an enclave's: this router has no other."""
    if not isinstance(worker, TeeWorker):
        raise TypeError("attestation is served around a TeeWorker only")
    return worker


TheEnclave = Annotated[TeeWorker, Depends(the_enclave)]
Nonce = Annotated[
    str,
    Query(description="64 hex digits that you have just drawn at random: the document will have them in it"),
]


@router.get("/attestation", responses=_PROBLEMS, response_model=Attestation)
async def attestation(enclave: TheEnclave, nonce: Nonce = "") -> Response:
    """The enclave's keyset, with a document of its hardware, made now, that binds it and the nonce."""
    made = await asyncio.to_thread(enclave.attest, nonce)
    return Response(made.model_dump_json(by_alias=True, exclude_none=True), media_type="application/json")


@router.get("/metrics")
async def metrics(enclave: TheEnclave) -> Response:
    """Counts in Prometheus' text format."""
    return Response(enclave.metrics.exposition(), headers={"content-type": CONTENT_TYPE})
