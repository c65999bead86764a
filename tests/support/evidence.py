"""A whole job without I/O: the evidence that an honest dispatcher and honest operators would leave."""

from typing import Any

from aos_protocol import sortition, vrf
from aos_protocol.canonical import digest
from aos_protocol.frames import seal_reply
from aos_protocol.identity import Signer
from aos_protocol.messages import Dispatch, Draw, SubmitRequest, Ticket, parse_message
from aos_protocol.typed_data import Domain, ReceiptClaim, sign_typed
from aos_protocol.verification import check_ticket
from support.operators import MODEL, ScriptedOperator

DISPATCHER = Signer(b"\x11" * 32)
NO_REGISTRY = "0x" + "0" * 40
REQUEST = {
    "from": "shop",
    "tag": "",
    "user": "device 1",
    "job": {
        "tag": "opml",
        "prompt": "What is AI?",
        "model": MODEL.name,
        "params": {"temperature": 1.0, "top_p": 0.5, "max_tokens": 1024},
    },
}


def honest_evidence(tag: str = "", operators: int = 4) -> dict[str, Any]:
    """The evidence document of a completed job, its calls answered by that many operators."""
    body = REQUEST | {"tag": tag}
    request = parse_message(SubmitRequest, body)
    job_id = sortition.job_id(DISPATCHER.address, 1, body)
    proof = vrf.prove(DISPATCHER, sortition.seed_alpha(job_id))
    seed = vrf.verify(DISPATCHER.public_key, sortition.seed_alpha(job_id), proof).hex()
    receipt = sign_typed(DISPATCHER, Domain(0, NO_REGISTRY), ReceiptClaim(job_id, 1, digest(body)))
    crew = [_operator(number) for number in range(2, operators + 2)]
    shares = sortition.equal_shares([operator.signer.address for operator in crew])
    common = {
        "job_id": job_id,
        "tag": tag,
        "position": "after" if tag else "",
        "seed": seed,
        "seed_proof": proof.hex(),
        "model": MODEL.to_json(),
    }
    electorate, tickets, ranking = [], {}, []
    for operator, (address, start, end) in zip(crew, shares, strict=True):
        what = {"job_type": "opml", "vrf_prompt_hash": request.job.prompt_hash(), "clock": {"1": "2"}}
        draw = parse_message(Draw, common | what | {"range_start": start, "range_end": end})
        ticket = _ticket(operator, draw)
        frame = seal_reply(
            operator.signer, "7", {"code": 200, "message": "success", "ticket": ticket.to_json()}
        )
        electorate.append({"operator": address, "frame": frame.text, "reason": ""})
        tickets[address] = ticket
        ranking.append(check_ticket(ticket, draw, address))
    ranking = sortition.rank(ranking)
    members = sortition.committee(ranking, sortition.committee_minimum(tag))
    clock = {"1": "3"}
    for member in members:
        clock |= {k: v for k, v in tickets[member.operator].clock.items() if k != "1"}
    results = []
    ended = {"1": "9"}
    for member in members:
        operator = next(o for o in crew if o.signer.address == member.operator)
        start, end = next((s, e) for a, s, e in shares if a == member.operator)
        what = {
            "user": request.user,
            "signature": receipt,
            "clock": clock,
            "job": request.job.to_json(),
            "sequence": 1,
        }
        what |= {"request_digest": digest(body), "range_start": start, "range_end": end, "role": "executor"}
        dispatch = parse_message(Dispatch, common | what)
        said = operator.result(dispatch)
        results.append(operator.request("job_result", said).text)
        ended[str(operator.number)] = said["clock"][str(operator.number)]
    return {
        "version": "aos-evidence/1",
        "dispatcher": {"address": DISPATCHER.address, "public_key": DISPATCHER.public_key.hex()},
        "domain": {"chain_id": 0, "registry": NO_REGISTRY},
        "job": {
            "job_id": job_id,
            "sequence": 1,
            "request": body,
            "request_digest": digest(body),
            "receipt": receipt,
            "status": "completed",
            "reason": "",
            "clock": ended,
        },
        "seed": {"value": seed, "proof": proof.hex()},
        "rounds": [
            {
                "verify_id": "1",
                "tag": tag,
                "position": common["position"],
                "model": MODEL.to_json(),
                "status": "completed",
                "registry": {
                    "max_range": sortition.MAX_RANGE,
                    "operators": [
                        {"operator": a, "number": o.number, "start": s, "end": e}
                        for o, (a, s, e) in zip(crew, shares, strict=True)
                    ],
                },
                "draw_clock": {"1": "2"},
                "electorate": electorate,
                "dispatch_clock": clock,
                "committee": [
                    {
                        "operator": m.operator,
                        "role": "executor",
                        "filled": m.filled,
                        "state": "answered",
                        "reason": "",
                    }
                    for m in members
                ],
                "results": results,
            }
        ],
        "rejections": [],
    }


def _operator(number: int) -> ScriptedOperator:
    operator = ScriptedOperator(Signer(bytes([number]) * 32), "")
    operator.number = number
    return operator


def _ticket(operator: ScriptedOperator, draw: Draw) -> Ticket:
    said = {
        "job_id": draw.job_id,
        "tag": draw.tag,
        "position": draw.position,
        "operator": operator.signer.address,
    }
    return parse_message(
        Ticket, said | {"vrf": operator.ticket(draw).to_json(), "clock": operator.tick(draw.clock)}
    )
