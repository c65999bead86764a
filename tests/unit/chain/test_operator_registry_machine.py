"""Whatever is done in whatever order, the registry stays what a list of ranges would be."""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from support.evm import Evm, reverts
from support.registry import DELAY, MAX_RANGE, PER_SLOT, SLASHER, new_registry

OPERATORS = 4
Range = tuple[int, int]
NONE = (0, 0)

# Values where a node of the tree begins or ends, so that ranges meet there, and some anywhere.
EDGES = [0, 1, 2, 255, 256, 257, 511, 512, 65_535, 65_536, 65_537, 131_072, 599_998, 599_999, 600_000]
VALUES = st.one_of(st.sampled_from(EDGES), st.integers(0, 1_100), st.integers(0, MAX_RANGE))
WHO = st.integers(0, OPERATORS - 1)


@dataclass
class Operator:
    """What the model knows of one operator; `leaves_at` 0 is not leaving."""

    number: int = 0
    range: Range = NONE
    bond: int = 0
    leaves_at: int = 0
    locks: int = 0
    history: dict[int, Range] = field(default_factory=dict)


class RegistryMachine(RuleBasedStateMachine):
    """The contract beside a plain model of it: searches are linear, and history is a dictionary by block."""

    evm: Evm | None = None

    def __init__(self) -> None:
        super().__init__()
        # One chain serves all runs: making one takes longer than a run.
        if RegistryMachine.evm is None:
            RegistryMachine.evm = Evm()
        self.chain = RegistryMachine.evm
        self.registry = new_registry(self.chain)
        self.model = [Operator() for _ in range(OPERATORS)]

    def send(self, name: str, *arguments: Any, sender: int, value: int = 0) -> None:
        self.chain.send(self.registry.functions[name](*arguments), sender=sender, value=value)

    def refused(self, name: str, *arguments: Any, sender: int, value: int = 0) -> None:
        with reverts():
            self.send(name, *arguments, sender=sender, value=value)

    def read(self, name: str, *arguments: Any) -> list[int]:
        """The words of an answer; an address is a number, too."""
        return self.chain.words(self.registry.functions[name](*arguments))

    def address(self, who: int) -> int:
        return int(self.chain.accounts[who], 16)

    def place(self, who: int, wanted: Range) -> None:
        """Note a range that the operator now has."""
        operator = self.model[who]
        operator.range = wanted
        operator.history[self.chain.web3.eth.block_number] = wanted

    def acceptable(self, who: int, wanted: Range, bond: int) -> bool:
        start, end = wanted
        others = [each.range for place, each in enumerate(self.model) if place != who]
        overlaps = any(start < theirs[1] and theirs[0] < end for theirs in others)
        return start < end <= MAX_RANGE and not overlaps and bond >= (end - start) * PER_SLOT

    def take(self, name: str, who: int, wanted: Range, value: int) -> bool:
        """Register or update, and say whether the model thinks that this holds."""
        arguments = (self.chain.accounts[who], *wanted)
        operator = self.model[who]
        registered = operator.range != NONE
        right_time = registered == (name == "updateOperatorRange")
        if not right_time or not self.acceptable(who, wanted, operator.bond + value):
            self.refused(name, *arguments, sender=who, value=value)
            return False
        self.send(name, *arguments, sender=who, value=value)
        operator.bond += value
        self.place(who, wanted)
        return True

    @initialize(start=VALUES)
    def somebody_is_there(self, start: int) -> None:
        end = min(start + 300, MAX_RANGE)
        self.register(0, start, end, 0)

    @rule(who=WHO, start=VALUES, end=VALUES, spare=st.sampled_from([-1, 0, 0, 0, 700]))
    def register(self, who: int, start: int, end: int, spare: int) -> None:
        operator = self.model[who]
        value = max(0, (end - start) * PER_SLOT - operator.bond + spare)
        if self.take("registerOperator", who, (start, end), value):
            operator.leaves_at = 0
            if operator.number == 0:
                operator.number = max(1, *(each.number for each in self.model)) + 1

    @rule(who=WHO, start=VALUES, end=VALUES, spare=st.sampled_from([-1, 0, 0, 0, 700]))
    def update(self, who: int, start: int, end: int, spare: int) -> None:
        value = max(0, (end - start) * PER_SLOT - self.model[who].bond + spare)
        self.take("updateOperatorRange", who, (start, end), value)

    @rule(who=WHO, by=st.sampled_from(["touch", "shift", "narrow", "same"]), other=WHO)
    def update_near(self, who: int, by: str, other: int) -> None:
        """Ranges that are drawn alone rarely meet."""
        start, end = self.model[who].range
        width = end - start
        wanted = {
            "touch": (self.model[other].range[1], self.model[other].range[1] + width),
            "shift": (start + width // 2, end + width // 2),
            "narrow": (start, max(start, end - 1)),
            "same": (start, end),
        }[by]
        self.take("updateOperatorRange", who, wanted, 0)

    @rule(who=WHO)
    def leave(self, who: int) -> None:
        if self.model[who].range == NONE:
            self.refused("leave", sender=who)
            return
        self.send("leave", sender=who)
        self.vacated(who)

    def vacated(self, who: int) -> None:
        self.place(who, NONE)
        self.model[who].leaves_at = self.chain.now() + DELAY

    @rule(who=WHO)
    def withdraw(self, who: int) -> None:
        operator = self.model[who]
        # The block of the withdrawal is at least a second later than the last one.
        due = operator.leaves_at != 0 and self.chain.now() + 1 >= operator.leaves_at
        if not due or operator.locks or operator.bond == 0:
            self.refused("withdraw", sender=who)
            return
        self.send("withdraw", sender=who)
        operator.bond = operator.leaves_at = 0

    @precondition(lambda self: any(each.leaves_at for each in self.model))
    @rule()
    def wait_for_the_delay(self) -> None:
        self.chain.travel(DELAY + 1)
        self.chain.mine()

    @rule(who=WHO)
    def lock(self, who: int) -> None:
        if self.model[who].number == 0:
            self.refused("lock", self.chain.accounts[who], sender=SLASHER)
            return
        self.send("lock", self.chain.accounts[who], sender=SLASHER)
        self.model[who].locks += 1

    @rule(who=WHO)
    def unlock(self, who: int) -> None:
        if self.model[who].locks == 0:
            self.refused("unlock", self.chain.accounts[who], sender=SLASHER)
            return
        self.send("unlock", self.chain.accounts[who], sender=SLASHER)
        self.model[who].locks -= 1

    @rule(who=WHO, share=st.sampled_from([0, 1, 50, 100, 200]))
    def slash(self, who: int, share: int) -> None:
        operator = self.model[who]
        amount = operator.bond * share // 100
        self.send("slash", self.chain.accounts[who], amount, sender=SLASHER)
        operator.bond -= min(amount, operator.bond)
        start, end = operator.range
        if operator.bond < (end - start) * PER_SLOT:
            self.vacated(who)

    @rule(who=WHO, name=st.sampled_from(["lock", "unlock", "slash"]))
    def somebody_else_slashes(self, who: int, name: str) -> None:
        amount = (1,) if name == "slash" else ()
        self.refused(name, self.chain.accounts[who], *amount, sender=who)

    @rule(value=VALUES)
    def look_up(self, value: int) -> None:
        self.agree_on(min(value, MAX_RANGE - 1))

    @rule(who=WHO, back=st.integers(0, 30))
    def look_back(self, who: int, back: int) -> None:
        block = max(0, self.chain.web3.eth.block_number - back)
        history = self.model[who].history
        expected = next((history[past] for past in sorted(history, reverse=True) if past <= block), NONE)
        assert self.read("rangeAt", self.chain.accounts[who], block) == list(expected)

    def agree_on(self, value: int) -> None:
        holders = [
            self.address(place)
            for place, each in enumerate(self.model)
            if each.range[0] <= value < each.range[1]
        ]
        # An array comes as its offset, its length and its items.
        assert self.read("getOperatorsInRange", value) == [32, len(holders), *holders]

    @invariant()
    def look_up_agrees_at_every_edge(self) -> None:
        edges = {edge for each in self.model for edge in each.range}
        for value in {near for edge in edges for near in (edge - 1, edge) if 0 <= near < MAX_RANGE}:
            self.agree_on(value)

    @invariant()
    def ranges_do_not_overlap(self) -> None:
        ranges = [tuple(self.read("operatorRanges", account)) for account in self.chain.accounts[:OPERATORS]]
        assert ranges == [each.range for each in self.model]
        held = sorted(each for each in ranges if each != NONE)
        assert all(left[1] <= right[0] for left, right in pairwise(held))
        assert self.read("getNumOperators") == [len(held)]

    @invariant()
    def the_balance_is_the_sum_of_the_bonds(self) -> None:
        bonds = [self.read("bondOf", account)[0] for account in self.chain.accounts[:OPERATORS]]
        assert bonds == [each.bond for each in self.model]
        assert self.chain.balance(self.registry.address) == sum(bonds)

    @invariant()
    def every_account_is_as_the_model_has_it(self) -> None:
        for who, operator in enumerate(self.model):
            account = self.chain.accounts[who]
            assert self.read("operatorNumber", account) == [operator.number]
            assert self.read("leavesAt", account) == [operator.leaves_at]
            assert self.read("locks", account) == [operator.locks]
            if operator.number:
                assert self.read("operatorAt", operator.number) == [self.address(who)]
        assert self.read("lastNumber") == [max(1, *(each.number for each in self.model))]


# No shrinking: it would take longer than a test may.
RegistryMachine.TestCase.settings = settings(
    max_examples=6,
    stateful_step_count=25,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
TestRegistryMachine = RegistryMachine.TestCase
