"""web3's exceptions as ours: every class of them, and what the messages say."""

import inspect
from typing import Any

import pytest
from eth_abi.abi import encode
from web3 import exceptions as foreign
from web3.exceptions import (
    ContractLogicError,
    MethodUnavailable,
    RequestTimedOut,
    Web3Exception,
    Web3RPCError,
)

from aos_chain.errors import ChainError, ChainUnavailable, Reverted, Unconfirmed
from aos_chain.translation import translated

_MADE: dict[type[Web3Exception], tuple[Any, ...]] = {
    foreign.StaleBlockchain: ({"number": 5, "timestamp": 6}, 10),
    foreign.TransactionTypeMismatch: (),
    foreign.OffchainLookup: ({}, "0x"),
    foreign.TaskNotRunning: (None,),
}
_CLASSES = [
    kind
    for _, kind in inspect.getmembers(foreign, inspect.isclass)
    if issubclass(kind, Web3Exception) and kind is not foreign.PersistentConnectionClosedOK
]


def _error_data(reason: str) -> str:
    return "0x08c379a0" + encode(["string"], [reason]).hex()


def _raised(error: Exception) -> ChainError:
    with pytest.raises(ChainError) as raised, translated("asking"):
        raise error
    assert raised.value.__cause__ is error
    return raised.value


@pytest.mark.parametrize("kind", _CLASSES, ids=lambda kind: kind.__name__)
def test_every_class_of_web3_becomes_ours(kind: type[Web3Exception]) -> None:
    arguments = _MADE.get(kind, ("some message",))
    assert str(_raised(kind(*arguments)))


@pytest.mark.parametrize(
    "error", [ValueError("x"), TypeError(), KeyError("hash"), AttributeError(), OverflowError()]
)
def test_what_web3_trips_over_is_an_answer_that_cannot_be_read(error: Exception) -> None:
    assert str(_raised(error)) == "asking: the RPC endpoint's answer cannot be read: use another endpoint"


def test_our_own_errors_pass() -> None:
    for error in (ChainError("a"), ChainUnavailable("b"), Reverted("c"), Unconfirmed("0x1", "d")):
        with pytest.raises(ChainError) as raised, translated("asking"):
            raise error
        assert raised.value is error


@pytest.mark.parametrize("reason", ["the range overlaps another one", "ünïcode", "x" * 1000])
def test_a_contracts_reason_is_the_message(reason: str) -> None:
    error = _raised(ContractLogicError("execution reverted: something", data=_error_data(reason)))
    assert type(error) is Reverted
    assert str(error) == reason[:300]


@pytest.mark.parametrize(
    ("message", "data", "says"),
    [
        ("execution reverted: not yours", None, "not yours"),
        ("execution reverted: not yours", "0x", "not yours"),
        ("execution reverted", None, "the contract gives no reason"),
        ("", None, "the contract gives no reason"),
        ("execution reverted", _error_data(""), "the contract gives no reason"),
        ("VM Exception while processing transaction: execution reverted: no", None, "no"),
        ("execution reverted", "0x08c379a0" + "ff" * 70, "the contract's reason cannot be read"),
        ("execution reverted", "0x08c379a0zz", "the contract's reason cannot be read"),
    ],
)
def test_reasons_as_nodes_pass_them_on(message: str, data: str | None, says: str) -> None:
    assert str(_raised(ContractLogicError(message, data=data))) == says


@pytest.mark.parametrize(
    ("answer", "kind", "says"),
    [
        ({"code": -32005, "message": "limit"}, ChainUnavailable, "too busy to answer: limit"),
        ({"code": 429, "message": "slow down"}, ChainUnavailable, "too busy"),
        ({"code": -32000, "message": "insufficient funds for transfer"}, ChainError, "send it ether"),
        ({"code": -32000, "message": "nonce too low"}, ChainError, "refuses: nonce too low"),
        ({"code": -32000}, ChainError, "refuses: no reason given"),
        ("plain text", ChainError, "refuses: plain text"),
        ({"code": -32000, "message": "y" * 5000}, ChainError, "yyy"),
    ],
)
def test_refusals_of_the_endpoint(answer: Any, kind: type[ChainError], says: str) -> None:
    error = _raised(Web3RPCError("whatever", rpc_response={"error": answer}))
    assert type(error) is kind
    assert says in str(error)
    assert len(str(error)) < 500


def test_a_method_that_is_not_offered() -> None:
    assert "does not offer this method: use another endpoint" in str(
        _raised(MethodUnavailable("no such method"))
    )


def test_a_time_out_may_pass() -> None:
    assert type(_raised(RequestTimedOut("late"))) is ChainUnavailable
