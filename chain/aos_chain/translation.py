"""web3's exceptions as this package's: the one place where foreign errors of the chain are read."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from aos_chain.errors import ChainError, ChainUnavailable, Reverted
from aos_protocol.errors import InvalidAddress
from aos_protocol.identity import recursion_limit_kept

with recursion_limit_kept():
    from eth_abi.abi import decode
    from eth_abi.exceptions import DecodingError
    from eth_utils.exceptions import ValidationError
    from web3.exceptions import (
        BadFunctionCallOutput,
        BadResponseFormat,
        ContractLogicError,
        MethodUnavailable,
        MismatchedABI,
        RequestTimedOut,
        TooManyRequests,
        TransactionIndexingInProgress,
        Web3Exception,
        Web3RPCError,
        Web3ValidationError,
    )

_ERROR_SELECTOR: Final = "0x08c379a0"
_PREFIXES: Final = (
    "VM Exception while processing transaction: ",
    "execution reverted: ",
    "execution reverted",
    "revert: ",
)
_BUSY_CODES: Final = {-32005, -32016, -32097, 429}
_LONGEST: Final = 300
# What web3 raises where an answer is JSON-RPC, and its result is not what the method gives.
_UNREADABLE: Final = (
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    IndexError,
    ArithmeticError,
    ValidationError,
    InvalidAddress,
)
_ARGUMENTS: Final = "the arguments do not fit the contract: correct them"
_ADVICE: Final[dict[type[Web3Exception], str]] = {
    MethodUnavailable: "the RPC endpoint does not offer this method: use another endpoint",
    BadFunctionCallOutput: "no contract of ours answers there: check its address, and that the RPC URL is of its chain",
    BadResponseFormat: "the RPC endpoint's answer is no JSON-RPC: check the RPC URL",
    MismatchedABI: _ARGUMENTS,
    Web3ValidationError: _ARGUMENTS,
}


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Raise `ChainError` and its kinds for whatever web3 raises within; `what` is being done, for the message."""
    try:
        yield
    except Web3Exception as error:
        raise _translated(what, error) from error
    except _UNREADABLE as error:
        raise ChainError(f"{what}: the RPC endpoint's answer cannot be read: use another endpoint") from error


def _translated(what: str, error: Web3Exception) -> ChainError:
    match error:
        case ContractLogicError():
            return Reverted(_reason(error))
        case RequestTimedOut() | TooManyRequests() | TransactionIndexingInProgress():
            return ChainUnavailable(f"{what}: the RPC endpoint is too busy to answer")
        case Web3RPCError() if not isinstance(error, MethodUnavailable):
            return _refused(what, error)
    for kind, advice in _ADVICE.items():
        if isinstance(error, kind):
            return ChainError(f"{what}: {advice} ({_short(error)})")
    return ChainError(f"{what}: {_short(error) or type(error).__name__}")


def _refused(what: str, error: Web3RPCError) -> ChainError:
    answered: Any = (error.rpc_response or {}).get("error")
    details: dict[str, Any] = answered if isinstance(answered, dict) else {"message": answered}
    message = str(details.get("message") or "no reason given")[:_LONGEST]
    if details.get("code") in _BUSY_CODES:
        return ChainUnavailable(f"{what}: the RPC endpoint is too busy to answer: {message}")
    if "insufficient funds" in message.lower():
        return ChainError(
            f"{what}: the sender's account does not hold the value and the gas: send it ether ({message})"
        )
    return ChainError(f"{what}: the RPC endpoint refuses: {message}")


def _reason(error: ContractLogicError) -> str:
    """The string that the contract gave, from the revert's data where the node passes it on."""
    data = error.data
    if isinstance(data, str) and data.startswith(_ERROR_SELECTOR):
        try:
            text = str(decode(["string"], bytes.fromhex(data[10:]))[0])
        except (DecodingError, ValueError):
            return "the contract's reason cannot be read"
    else:
        text = str(error.message or "")
        for prefix in _PREFIXES:
            text = text.removeprefix(prefix)
    return text[:_LONGEST] or "the contract gives no reason"


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:_LONGEST]
