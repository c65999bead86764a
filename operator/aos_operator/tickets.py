"""An operator's ticket in a draw. It is a function of its key and the job, so it can be drawn again at any time."""

from functools import lru_cache
from typing import Final

from aos_protocol import vrf
from aos_protocol.identity import Signer
from aos_protocol.messages import Dispatch, Draw, ScoreCall, Vrf
from aos_protocol.sortition import ticket_threshold, ticket_value

_REMEMBERED: Final = 1024
"""How many proofs are kept, of 0.4 kB each: from a draw until the result that carries the same ticket."""


def draw_ticket(signer: Signer, call: Draw | Dispatch | ScoreCall) -> Vrf:
    """Draw this operator's ticket for a draw, or for the dispatch or call for a score that followed from it.

    Raises `InvalidMessage` for a tag and position that do not go together.
    """
    prompt_hash = call.vrf_prompt_hash if isinstance(call, Draw) else call.job.prompt_hash()
    proof = _proof(signer, bytes.fromhex(call.seed + prompt_hash))
    output = vrf.ECVRF_SECP256K1_SHA256_TAI.proof_to_hash(proof)
    threshold = ticket_threshold(call.range_start, call.range_end, call.tag, call.position)
    return Vrf(
        selected=ticket_value(output) < threshold,
        vrf_prompt_hash=prompt_hash,
        vrf_random_value=output.hex(),
        vrf_verify_pubkey=signer.public_key.hex(),
        vrf_proof=proof.hex(),
    )


@lru_cache(_REMEMBERED)
def _proof(signer: Signer, alpha: bytes) -> bytes:
    return vrf.prove(signer, alpha)
