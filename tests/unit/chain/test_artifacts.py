"""The compiled contracts: each one loads, and has what this package calls by its name."""

import ast
from pathlib import Path

import pytest
from eth_utils.abi import event_abi_to_log_topic, function_abi_to_4byte_selector

import aos_chain
from aos_chain.artifacts import CONTRACTS, artifact
from aos_chain.logs import topics_of
from aos_chain.registry import KINDS

_SOURCES = Path(aos_chain.__file__).parent
# By module: the contract whose functions it names, in strings, as the argument after these.
_CALLERS = {"operators": "OperatorRegistry", "anchoring": "Anchor", "challenges": "Challenge"}
_AOS_READING = {
    "MAX_RANGE": ([], ["uint256"]),
    "operatorRanges": (["address"], ["uint256", "uint256"]),
    "getOperatorsInRange": (["uint256"], ["address[]"]),
    "getNumOperators": ([], ["uint256"]),
    "registerOperator": (["address", "uint256", "uint256"], []),
    "updateOperatorRange": (["address", "uint256", "uint256"], []),
}


def _functions(contract: str) -> dict[str, tuple[list[str], list[str]]]:
    return {
        element["name"]: (
            [part["type"] for part in element["inputs"]],
            [part["type"] for part in element["outputs"]],
        )
        for element in artifact(contract).abi
        if element["type"] == "function"
    }


def _named_functions(module: str) -> set[str]:
    """The strings that a module passes, at third place or later, to the helpers that name a contract's function."""
    tree = ast.parse((_SOURCES / f"{module}.py").read_text("utf-8"))
    calls = [
        node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    ]
    helpers = {"_function", "_send", "_open", "_place"}
    return {
        argument.value
        for call in calls
        if isinstance(call.func, ast.Name) and call.func.id in helpers
        for argument in call.args[2:4]
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
    }


@pytest.mark.parametrize("name", CONTRACTS)
def test_every_contract_loads_and_can_be_deployed(name: str) -> None:
    compiled = artifact(name)
    assert compiled.name == name
    assert bytes.fromhex(compiled.bytecode.removeprefix("0x"))
    assert len(bytes.fromhex(compiled.bytecode.removeprefix("0x"))) <= 2 * 24_576, "EIP-3860: init code"
    assert any(element["type"] == "constructor" for element in compiled.abi)


@pytest.mark.parametrize(("module", "contract"), _CALLERS.items())
def test_contracts_have_the_functions_that_are_called(module: str, contract: str) -> None:
    named = _named_functions(module)
    assert len(named) >= 5
    assert named <= set(_functions(contract))


def test_the_registry_reads_as_aos_published_it() -> None:
    functions = _functions("OperatorRegistry")
    assert {name: functions[name] for name in _AOS_READING} == _AOS_READING


def test_the_registry_emits_what_the_fold_reads() -> None:
    events = {
        element["name"]: {part["name"]: part["type"] for part in element["inputs"]}
        for element in artifact("OperatorRegistry").abi
        if element["type"] == "event"
    }
    placed = {"operator": "address", "start": "uint256", "end": "uint256", "bond": "uint256"}
    assert events["OperatorRegistered"] == placed | {"number": "uint256"}
    assert events["RangeUpdated"] == placed
    assert events["OperatorLeft"]["operator"] == events["OperatorRemoved"]["operator"] == "address"
    assert len(topics_of("OperatorRegistry", KINDS)) == len(KINDS)


@pytest.mark.parametrize("name", CONTRACTS)
def test_no_two_functions_or_events_share_a_selector(name: str) -> None:
    functions = [element for element in artifact(name).abi if element["type"] == "function"]
    events = [element for element in artifact(name).abi if element["type"] == "event"]
    assert len({function_abi_to_4byte_selector(element) for element in functions}) == len(functions)  # type: ignore[arg-type]
    assert len({event_abi_to_log_topic(element) for element in events}) == len(events)  # type: ignore[arg-type]
