"""What an operator signs: a `job_result` for a dispatch, a `job_score` for a call. Each sending is signed afresh, with its own clock."""

from dataclasses import replace

from aos_operator.tasks import Outcome, Product, Request, Scored
from aos_operator.tickets import draw_ticket
from aos_protocol.canonical import JsonObject
from aos_protocol.identity import Signer
from aos_protocol.messages import Dispatch, JobResult, JobScore, ScoreCall
from aos_protocol.typed_data import Domain, sign_typed
from aos_protocol.verification import result_claim, score_claim

_UNSIGNED = "00" * 65


def statement(
    signer: Signer, domain: Domain, request: Request, product: Product, clock: dict[str, str]
) -> tuple[str, JsonObject]:
    """Return the method and the parameter that answer a request with what came of it.

    Raises `ProtocolError` for what cannot be signed, and `ValueError` when the product is not one of such a request.
    """
    match request, product:
        case Dispatch(), Outcome():
            return "job_result", _result(signer, domain, request, product, clock)
        case ScoreCall(), Scored():
            return "job_score", _score(signer, domain, request, product, clock)
        case _:
            raise ValueError(f"a {type(product).__name__} is no answer to a {type(request).__name__}")


def _result(
    signer: Signer, domain: Domain, dispatch: Dispatch, outcome: Outcome, clock: dict[str, str]
) -> JsonObject:
    unsigned = JobResult(
        user=dispatch.user,
        job_id=dispatch.job_id,
        result=outcome.result,
        reason=outcome.reason,
        vrf=draw_ticket(signer, dispatch),
        tag=dispatch.tag,
        clock=clock,
        operator=signer.address,
        signature=_UNSIGNED,
        position=dispatch.position,
        role=dispatch.role,
        model=dispatch.model,
        transcript=outcome.transcript,
        enclave=outcome.enclave,
    )
    claim = result_claim(unsigned, dispatch.job.params.digest(), None)
    signature = sign_typed(signer, domain, replace(claim, transcript=outcome.commitment))
    return {**unsigned.to_json(), "signature": signature}


def _score(
    signer: Signer, domain: Domain, call: ScoreCall, scored: Scored, clock: dict[str, str]
) -> JsonObject:
    unsigned = JobScore(
        user=call.user,
        job_id=call.job_id,
        tag=call.tag,
        position=call.position,
        challenge=call.challenge,
        subject=scored.subject,
        subject_operator=scored.subject_operator,
        score=scored.score,
        reason=scored.reason,
        vrf=draw_ticket(signer, call),
        clock=clock,
        operator=signer.address,
        signature=_UNSIGNED,
        model=call.model,
    )
    signature = sign_typed(signer, domain, score_claim(unsigned, call.job.params.digest()))
    return {**unsigned.to_json(), "signature": signature}
