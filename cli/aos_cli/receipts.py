"""Holds a dispatcher's receipt against the request that was sent."""

from aos_cli.client import JsonObject
from aos_cli.failures import ReceiptRefused
from aos_protocol.canonical import digest
from aos_protocol.errors import ProtocolError
from aos_protocol.messages import Receipt
from aos_protocol.typed_data import Domain, ReceiptClaim
from aos_protocol.verification import check_job_id, check_receipt


def verify_receipt(receipt: Receipt, request: JsonObject, *, dispatcher: str | None, domain: Domain) -> None:
    """Return quietly if the receipt binds the dispatcher to exactly this request.

    `dispatcher` is the address that must have signed; None takes the receipt's word for whose it is. `domain` may come from
    the dispatcher itself: nobody can make a signature of somebody else's in any domain.

    Raises:
        ReceiptRefused: with what does not hold.
    """
    if dispatcher is not None and receipt.dispatcher != dispatcher:
        raise ReceiptRefused(
            f"job {receipt.job_id}: the receipt is one of dispatcher {receipt.dispatcher}, not of {dispatcher}: do not rely "
            "on this job, and find out who answers at this address"
        )
    try:
        if digest(request) != receipt.request_digest:
            raise ReceiptRefused(
                f"job {receipt.job_id}: the receipt is for another request than the one sent: do not rely on this job"
            )
        check_job_id(receipt.job_id, receipt.dispatcher, receipt.sequence, request)
        claim = ReceiptClaim(receipt.job_id, receipt.sequence, receipt.request_digest)
        check_receipt(receipt.dispatcher, domain, claim, receipt.signature)
    except ProtocolError as error:
        raise ReceiptRefused(
            f"job {receipt.job_id}: the receipt does not hold ({error}): do not rely on this job"
        ) from error
