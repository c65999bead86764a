"""What an operator signs: a `job_result` for a dispatch, a `job_score` for a call. Each sending is signed afresh, with its own clock."""

from dataclasses import dataclass, replace

from aos_operator.tasks import Outcome, Product, Request, Scored
from aos_operator.tickets import draw_ticket
from aos_protocol.canonical import JsonObject
from aos_protocol.fields import parse_message
from aos_protocol.identity import Signer
from aos_protocol.messages import Dispatch, JobResult, JobScore, ScoreCall, TokenLogprob
from aos_protocol.typed_data import Domain, sign_typed
from aos_protocol.verification import result_claim, score_claim

_UNSIGNED = "00" * 65


@dataclass(frozen=True)
class Author:
    """Who signs, in which EIP-712 domain, and to which dispatcher."""

    signer: Signer
    domain: Domain
    dispatcher: str


def statement(
    author: Author, request: Request, product: Product, clock: dict[str, str], counter: int
) -> tuple[str, JsonObject]:
    """Return the method and the parameter that answer a request with what came of it; `counter` is the author's entry of `clock`.

    Raises `ProtocolError` for what cannot be signed, and `ValueError` when the product is not one of such a request.
    """
    match request, product:
        case Dispatch(), Outcome():
            return "job_result", _result(author, request, product, clock, counter)
        case ScoreCall(), Scored():
            return "job_score", _score(author, request, product, clock)
        case _:
            raise ValueError(f"a {type(product).__name__} is no answer to a {type(request).__name__}")


def _result(
    author: Author, dispatch: Dispatch, outcome: Outcome, clock: dict[str, str], counter: int
) -> JsonObject:
    unsigned = JobResult(
        user=dispatch.user,
        job_id=dispatch.job_id,
        result=outcome.result,
        reason=outcome.reason,
        vrf=draw_ticket(author.signer, dispatch),
        tag=dispatch.tag,
        clock=clock,
        dispatcher=author.dispatcher,
        operator=author.signer.address,
        counter=counter,
        registry_block=dispatch.registry_block,
        signature=_UNSIGNED,
        position=dispatch.position,
        role=dispatch.role,
        model=dispatch.model,
        transcript=outcome.transcript,
        enclave=outcome.enclave,
        record=outcome.record,
        logprobs=_logprobs(outcome),
    )
    claim = result_claim(unsigned, dispatch.job.params.digest(), None, seed=dispatch.seed)
    signature = sign_typed(author.signer, author.domain, replace(claim, transcript=outcome.commitment))
    return {**unsigned.to_json(), "signature": signature}


def _logprobs(outcome: Outcome) -> list[TokenLogprob] | None:
    if outcome.logprobs is None:
        return None
    return [parse_message(TokenLogprob, said) for said in outcome.logprobs]


def _score(author: Author, call: ScoreCall, scored: Scored, clock: dict[str, str]) -> JsonObject:
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
        vrf=draw_ticket(author.signer, call),
        clock=clock,
        operator=author.signer.address,
        signature=_UNSIGNED,
        model=call.model,
    )
    claim = score_claim(unsigned, call.job.params.digest(), seed=call.seed)
    signature = sign_typed(author.signer, author.domain, claim)
    return {**unsigned.to_json(), "signature": signature}
