"""The registry's rules, one by one; what holds after any sequence of them is in test_operator_registry_machine."""

from typing import Any

import pytest
from web3.contract import Contract

from support.evm import ETHER, Evm, reverts
from support.registry import (
    DELAY,
    MAX_RANGE,
    NOBODY,
    PER_SLOT,
    SLASHER,
    events,
    join,
    move,
    new_registry,
    read,
)


@pytest.fixture(scope="module")
def evm() -> Evm:
    return Evm()


@pytest.fixture
def registry(evm: Evm) -> Contract:
    return new_registry(evm)


class TestTerms:
    def test_they_can_be_read(self, evm: Evm, registry: Contract) -> None:
        assert read(registry, "slasher") == evm.accounts[SLASHER]
        assert read(registry, "bondPerSlot") == PER_SLOT
        assert read(registry, "leaveDelay") == DELAY
        assert read(registry, "MAX_RANGE") == MAX_RANGE

    def test_a_new_registry_is_empty(self, evm: Evm, registry: Contract) -> None:
        assert read(registry, "getNumOperators") == 0
        assert read(registry, "lastNumber") == 1
        assert read(registry, "operatorNumber", evm.accounts[0]) == 0
        assert read(registry, "operatorAt", 2) == NOBODY
        assert read(registry, "operatorRanges", evm.accounts[0]) == [0, 0]
        assert read(registry, "getOperatorsInRange", 0) == []

    def test_a_slasher_and_a_bond_are_needed(self, evm: Evm) -> None:
        with reverts("a slasher is needed"):
            evm.deploy("OperatorRegistry", NOBODY, PER_SLOT, DELAY)
        with reverts("a bond is needed"):
            evm.deploy("OperatorRegistry", evm.accounts[SLASHER], 0, DELAY)

    def test_ether_that_is_for_nothing_is_refused(self, evm: Evm, registry: Contract) -> None:
        with reverts():
            evm.wait(
                evm.web3.eth.send_transaction(
                    {"from": evm.accounts[0], "to": registry.address, "value": 1, "gas": 100_000}
                )
            )
        assert evm.balance(registry.address) == 0


class TestRegistering:
    def test_numbers_start_at_two(self, evm: Evm, registry: Contract) -> None:
        receipt = join(evm, registry, 0, 100, 200)
        operator = evm.accounts[0]
        registered = {"operator": operator, "number": 2, "start": 100, "end": 200, "bond": 1_000}
        assert events(registry, receipt) == [("OperatorRegistered", registered)]
        join(evm, registry, 1, 0, 100)
        assert [read(registry, "operatorAt", number) for number in (1, 2, 3, 4)] == [
            NOBODY,
            operator,
            evm.accounts[1],
            NOBODY,
        ]
        assert read(registry, "operatorNumber", evm.accounts[1]) == 3
        assert read(registry, "lastNumber") == 3
        assert read(registry, "getNumOperators") == 2
        assert read(registry, "bondOf", operator) == 1_000

    @pytest.mark.parametrize(("start", "end"), [(0, 1), (599_999, 600_000), (0, 600_000)])
    def test_ranges_up_to_the_ends(self, evm: Evm, registry: Contract, start: int, end: int) -> None:
        join(evm, registry, 0, start, end)
        operator = evm.accounts[0]
        assert read(registry, "operatorRanges", operator) == [start, end]
        assert read(registry, "getOperatorsInRange", start) == [operator]
        assert read(registry, "getOperatorsInRange", end - 1) == [operator]
        if start > 0:
            assert read(registry, "getOperatorsInRange", start - 1) == []
        if end < MAX_RANGE:
            assert read(registry, "getOperatorsInRange", end) == []

    @pytest.mark.parametrize(
        ("start", "end", "reason"),
        [
            (5, 5, "the range is empty"),
            (0, 0, "the range is empty"),
            (6, 5, "the range is empty"),
            (MAX_RANGE, MAX_RANGE, "the range is empty"),
            (0, MAX_RANGE + 1, "the range ends after MAX_RANGE"),
            (MAX_RANGE, MAX_RANGE + 1, "the range ends after MAX_RANGE"),
            (2**256 - 2, 2**256 - 1, "the range ends after MAX_RANGE"),
            (0, 2**256 - 1, "the range ends after MAX_RANGE"),
        ],
    )
    def test_what_is_no_range(self, evm: Evm, registry: Contract, start: int, end: int, reason: str) -> None:
        with reverts(reason):
            join(evm, registry, 0, start, end, bond=ETHER)
        join(evm, registry, 0, 10, 20)
        with reverts(reason):
            move(evm, registry, 0, start, end, pay=ETHER)

    @pytest.mark.parametrize("value", [MAX_RANGE, MAX_RANGE + 1, 2**20, 2**256 - 1])
    def test_no_look_up_from_max_range_on(self, registry: Contract, value: int) -> None:
        with reverts("not below MAX_RANGE"):
            read(registry, "getOperatorsInRange", value)

    def test_only_for_oneself(self, evm: Evm, registry: Contract) -> None:
        with reverts("only the operator itself"):
            evm.send(registry.functions.registerOperator(evm.accounts[1], 0, 1), sender=0, value=10)
        join(evm, registry, 1, 0, 1)
        with reverts("only the operator itself"):
            evm.send(registry.functions.updateOperatorRange(evm.accounts[1], 0, 1), sender=SLASHER, value=10)

    def test_once(self, evm: Evm, registry: Contract) -> None:
        join(evm, registry, 0, 0, 10)
        with reverts("registered: update the range"):
            join(evm, registry, 0, 20, 30)
        with reverts("not registered"):
            move(evm, registry, 1, 20, 30, pay=100)

    def test_the_bond_covers_the_width(self, evm: Evm, registry: Contract) -> None:
        with reverts("the bond does not cover the range"):
            join(evm, registry, 0, 0, 100, bond=999)
        join(evm, registry, 0, 0, 100, bond=1_000)
        with reverts("the bond does not cover the range"):
            move(evm, registry, 0, 0, 101, pay=9)
        move(evm, registry, 0, 0, 101, pay=10)
        assert read(registry, "bondOf", evm.accounts[0]) == 1_010

    @pytest.mark.parametrize(
        ("start", "end"),
        [
            (999, 1_001),
            (1_000, 1_001),
            (1_499, 1_500),
            (1_999, 2_001),
            (0, 3_000),
            (1_000, 2_000),
            (0, MAX_RANGE),
        ],
    )
    def test_no_overlap(self, evm: Evm, registry: Contract, start: int, end: int) -> None:
        join(evm, registry, 0, 1_000, 2_000)
        with reverts("the range overlaps another one"):
            join(evm, registry, 1, start, end)
        join(evm, registry, 1, 5_000, 5_001)
        with reverts("the range overlaps another one"):
            move(evm, registry, 1, start, end, pay=ETHER)
        assert read(registry, "operatorRanges", evm.accounts[1]) == [5_000, 5_001]

    def test_touching_is_fine(self, evm: Evm, registry: Contract) -> None:
        join(evm, registry, 0, 1_000, 2_000)
        join(evm, registry, 1, 999, 1_000)
        join(evm, registry, 2, 2_000, 2_001)
        found = [
            read(registry, "getOperatorsInRange", value) for value in (998, 999, 1_000, 1_999, 2_000, 2_001)
        ]
        assert found == [[], [evm.accounts[1]], [evm.accounts[0]], [evm.accounts[0]], [evm.accounts[2]], []]

    @pytest.mark.parametrize("gap", [1, 255, 256, 257, 65_535, 65_536, 65_537, 524_288, 599_998])
    def test_look_up_over_gaps_of_every_level_of_the_tree(
        self, evm: Evm, registry: Contract, gap: int
    ) -> None:
        join(evm, registry, 0, 0, 1)
        assert read(registry, "getOperatorsInRange", gap) == []
        join(evm, registry, 1, gap, gap + 1)
        assert read(registry, "getOperatorsInRange", gap) == [evm.accounts[1]]
        assert read(registry, "getOperatorsInRange", gap + 1 if gap < MAX_RANGE - 1 else gap - 1) == []
        evm.send(registry.functions.leave(), sender=1)
        assert read(registry, "getOperatorsInRange", gap) == []
        move(evm, registry, 0, 0, MAX_RANGE, pay=MAX_RANGE * PER_SLOT)
        assert read(registry, "getOperatorsInRange", gap) == [evm.accounts[0]]


class TestMoving:
    def test_over_its_own_old_range(self, evm: Evm, registry: Contract) -> None:
        join(evm, registry, 0, 100, 200)
        receipt = move(evm, registry, 0, 150, 250)
        updated = {"operator": evm.accounts[0], "start": 150, "end": 250, "bond": 1_000}
        assert events(registry, receipt) == [("RangeUpdated", updated)]
        assert read(registry, "getOperatorsInRange", 149) == []
        assert read(registry, "getOperatorsInRange", 249) == [evm.accounts[0]]
        assert read(registry, "getNumOperators") == 1

    def test_narrowing_gives_nothing_back(self, evm: Evm, registry: Contract) -> None:
        join(evm, registry, 0, 100, 200)
        move(evm, registry, 0, 100, 101)
        assert read(registry, "bondOf", evm.accounts[0]) == 1_000 == evm.balance(registry.address)
        move(evm, registry, 0, 400, 500)
        assert read(registry, "operatorRanges", evm.accounts[0]) == [400, 500]

    def test_a_refused_move_changes_nothing(self, evm: Evm, registry: Contract) -> None:
        join(evm, registry, 0, 100, 200)
        join(evm, registry, 1, 200, 300)
        with reverts("overlaps"):
            move(evm, registry, 0, 100, 201, pay=10)
        assert read(registry, "operatorRanges", evm.accounts[0]) == [100, 200]
        assert read(registry, "getOperatorsInRange", 150) == [evm.accounts[0]]
        assert read(registry, "bondOf", evm.accounts[0]) == 1_000

    def test_the_same_range_pays_into_the_bond(self, evm: Evm, registry: Contract) -> None:
        join(evm, registry, 0, 100, 200)
        move(evm, registry, 0, 100, 200, pay=5)
        assert read(registry, "operatorRanges", evm.accounts[0]) == [100, 200]
        assert read(registry, "getOperatorsInRange", 100) == [evm.accounts[0]]
        assert read(registry, "bondOf", evm.accounts[0]) == 1_005


class TestLeaving:
    def test_the_range_is_free_at_once_and_the_bond_after_the_delay(
        self, evm: Evm, registry: Contract
    ) -> None:
        join(evm, registry, 0, 100, 200)
        receipt = evm.send(registry.functions.leave())
        due = evm.now() + DELAY
        assert events(registry, receipt) == [
            ("OperatorLeft", {"operator": evm.accounts[0], "withdrawable_at": due})
        ]
        assert read(registry, "leavesAt", evm.accounts[0]) == due
        assert read(registry, "operatorRanges", evm.accounts[0]) == [0, 0]
        assert read(registry, "getNumOperators") == 0
        join(evm, registry, 1, 100, 200)
        evm.tester.time_travel(due - 1)
        with reverts("the leave delay is not over"):
            evm.send(registry.functions.withdraw())
        # That attempt made no block, so the next one's time is still ours to set.
        evm.tester.time_travel(due)
        before = evm.balance(evm.accounts[0])
        receipt = evm.send(registry.functions.withdraw())
        assert events(registry, receipt) == [
            ("BondWithdrawn", {"operator": evm.accounts[0], "amount": 1_000})
        ]
        cost = receipt["gasUsed"] * receipt["effectiveGasPrice"]
        assert evm.balance(evm.accounts[0]) == before - cost + 1_000
        assert evm.balance(registry.address) == 1_000 == read(registry, "bondOf", evm.accounts[1])
        assert read(registry, "leavesAt", evm.accounts[0]) == 0

    def test_in_no_other_order(self, evm: Evm, registry: Contract) -> None:
        with reverts("not registered"):
            evm.send(registry.functions.leave())
        with reverts("leave first"):
            evm.send(registry.functions.withdraw())
        join(evm, registry, 0, 100, 200)
        with reverts("leave first"):
            evm.send(registry.functions.withdraw())
        evm.send(registry.functions.leave())
        with reverts("not registered"):
            evm.send(registry.functions.leave())
        evm.travel(DELAY + 1)
        evm.send(registry.functions.withdraw())
        with reverts("leave first"):
            evm.send(registry.functions.withdraw())

    def test_nobody_withdraws_for_others(self, evm: Evm, registry: Contract) -> None:
        join(evm, registry, 0, 100, 200)
        evm.send(registry.functions.leave())
        evm.travel(DELAY + 1)
        with reverts("leave first"):
            evm.send(registry.functions.withdraw(), sender=1)

    def test_coming_back_keeps_number_and_bond(self, evm: Evm, registry: Contract) -> None:
        join(evm, registry, 0, 100, 200)
        join(evm, registry, 1, 200, 300)
        evm.send(registry.functions.leave())
        receipt = join(evm, registry, 0, 0, 100, bond=0)
        registered = {"operator": evm.accounts[0], "number": 2, "start": 0, "end": 100, "bond": 1_000}
        assert events(registry, receipt) == [("OperatorRegistered", registered)]
        assert read(registry, "leavesAt", evm.accounts[0]) == 0
        assert read(registry, "lastNumber") == 3
        evm.travel(DELAY + 1)
        with reverts("leave first"):
            evm.send(registry.functions.withdraw())

    def test_coming_back_after_withdrawing_needs_a_new_bond(self, evm: Evm, registry: Contract) -> None:
        join(evm, registry, 0, 100, 200)
        evm.send(registry.functions.leave())
        evm.travel(DELAY + 1)
        evm.send(registry.functions.withdraw())
        with reverts("the bond does not cover the range"):
            join(evm, registry, 0, 100, 200, bond=0)
        join(evm, registry, 0, 100, 200)
        assert read(registry, "operatorNumber", evm.accounts[0]) == 2


class TestLocks:
    def test_a_locked_operator_may_leave_but_not_withdraw(self, evm: Evm, registry: Contract) -> None:
        join(evm, registry, 0, 100, 200)
        for count in (1, 2):
            receipt = evm.send(registry.functions.lock(evm.accounts[0]), sender=SLASHER)
            assert events(registry, receipt) == [
                ("LocksChanged", {"operator": evm.accounts[0], "locks": count})
            ]
        evm.send(registry.functions.leave())
        evm.travel(DELAY + 1)
        for left in (1, 0):
            with reverts("locked by a challenge"):
                evm.send(registry.functions.withdraw())
            evm.send(registry.functions.unlock(evm.accounts[0]), sender=SLASHER)
            assert read(registry, "locks", evm.accounts[0]) == left
        evm.send(registry.functions.withdraw())

    def test_one_who_never_registered_cannot_be_locked(self, evm: Evm, registry: Contract) -> None:
        with reverts("unknown operator"):
            evm.send(registry.functions.lock(evm.accounts[0]), sender=SLASHER)

    def test_no_more_unlocks_than_locks(self, evm: Evm, registry: Contract) -> None:
        join(evm, registry, 0, 100, 200)
        with reverts("not locked"):
            evm.send(registry.functions.unlock(evm.accounts[0]), sender=SLASHER)

    @pytest.mark.parametrize("name", ["lock", "unlock", "slash"])
    def test_only_the_slasher(self, evm: Evm, registry: Contract, name: str) -> None:
        join(evm, registry, 0, 100, 200)
        arguments = (evm.accounts[0], 1) if name == "slash" else (evm.accounts[0],)
        for sender in (0, 1):
            with reverts("only the slasher"):
                evm.send(registry.functions[name](*arguments), sender=sender)


class TestSlashing:
    def slash(self, evm: Evm, registry: Contract, operator: int, amount: int) -> Any:
        return evm.send(registry.functions.slash(evm.accounts[operator], amount), sender=SLASHER)

    def test_what_the_range_does_not_need(self, evm: Evm, registry: Contract) -> None:
        join(evm, registry, 0, 100, 200, bond=1_500)
        before = evm.balance(evm.accounts[SLASHER])
        assert registry.functions.slash(evm.accounts[0], 500).call({"from": evm.accounts[SLASHER]}) == 500
        receipt = self.slash(evm, registry, 0, 500)
        slashed = {"operator": evm.accounts[0], "amount": 500, "bond": 1_000}
        assert events(registry, receipt) == [("OperatorSlashed", slashed)]
        cost = receipt["gasUsed"] * receipt["effectiveGasPrice"]
        assert evm.balance(evm.accounts[SLASHER]) == before - cost + 500
        assert read(registry, "operatorRanges", evm.accounts[0]) == [100, 200]
        assert read(registry, "leavesAt", evm.accounts[0]) == 0

    @pytest.mark.parametrize(
        ("amount", "taken"), [(1, 1), (1_000, 1_000), (1_001, 1_000), (2**256 - 1, 1_000)]
    )
    def test_what_the_range_needs_costs_the_range(
        self, evm: Evm, registry: Contract, amount: int, taken: int
    ) -> None:
        join(evm, registry, 0, 100, 200)
        receipt = self.slash(evm, registry, 0, amount)
        slashed = {"operator": evm.accounts[0], "amount": taken, "bond": 1_000 - taken}
        assert events(registry, receipt) == [
            ("OperatorSlashed", slashed),
            ("OperatorRemoved", {"operator": evm.accounts[0]}),
        ]
        assert read(registry, "operatorRanges", evm.accounts[0]) == [0, 0]
        assert read(registry, "getOperatorsInRange", 100) == []
        assert read(registry, "getNumOperators") == 0
        assert read(registry, "leavesAt", evm.accounts[0]) == evm.now() + DELAY
        assert evm.balance(registry.address) == 1_000 - taken

    def test_the_rest_can_be_withdrawn_after_the_delay(self, evm: Evm, registry: Contract) -> None:
        join(evm, registry, 0, 100, 200)
        self.slash(evm, registry, 0, 1)
        with reverts("the leave delay is not over"):
            evm.send(registry.functions.withdraw())
        evm.travel(DELAY + 1)
        evm.send(registry.functions.withdraw())
        assert evm.balance(registry.address) == 0

    def test_nothing_is_left_of_a_whole_bond(self, evm: Evm, registry: Contract) -> None:
        join(evm, registry, 0, 100, 200)
        self.slash(evm, registry, 0, 1_000)
        evm.travel(DELAY + 1)
        with reverts("no bond"):
            evm.send(registry.functions.withdraw())

    def test_while_leaving_does_not_put_off_the_withdrawal(self, evm: Evm, registry: Contract) -> None:
        join(evm, registry, 0, 100, 200)
        evm.send(registry.functions.leave())
        due = read(registry, "leavesAt", evm.accounts[0])
        evm.travel(100)
        receipt = self.slash(evm, registry, 0, 400)
        slashed = {"operator": evm.accounts[0], "amount": 400, "bond": 600}
        assert events(registry, receipt) == [("OperatorSlashed", slashed)]
        assert read(registry, "leavesAt", evm.accounts[0]) == due

    def test_who_has_no_bond_loses_nothing(self, evm: Evm, registry: Contract) -> None:
        join(evm, registry, 1, 100, 200)
        for operator in (0, 1):
            assert events(registry, self.slash(evm, registry, operator, 0)) == []
        assert events(registry, self.slash(evm, registry, 0, 10)) == []
        assert read(registry, "bondOf", evm.accounts[1]) == 1_000

    def test_a_removed_operator_may_come_back_with_a_bond(self, evm: Evm, registry: Contract) -> None:
        join(evm, registry, 0, 100, 200)
        self.slash(evm, registry, 0, 400)
        with reverts("the bond does not cover the range"):
            join(evm, registry, 0, 100, 200, bond=399)
        join(evm, registry, 0, 100, 200, bond=400)
        assert read(registry, "operatorNumber", evm.accounts[0]) == 2
        assert read(registry, "leavesAt", evm.accounts[0]) == 0


class TestHistory:
    def test_every_change_can_be_read_by_its_block(self, evm: Evm, registry: Contract) -> None:
        operator = evm.accounts[0]
        expected = {evm.web3.eth.block_number: [0, 0]}
        for step in range(12):
            if step == 0:
                join(evm, registry, 0, 10, 20)
            elif step == 7:
                evm.send(registry.functions.leave())
            elif step == 8:
                join(evm, registry, 0, 1, 2, bond=0)
            else:
                move(evm, registry, 0, step * 1_000, step * 1_000 + 10)
            for block in (evm.web3.eth.block_number, evm.web3.eth.block_number + 1):
                expected[block] = read(registry, "operatorRanges", operator)
            evm.mine()
        assert {block: read(registry, "rangeAt", operator, block) for block in expected} == expected
        assert read(registry, "rangeAt", operator, 0) == [0, 0]
        assert read(registry, "rangeAt", evm.accounts[1], evm.web3.eth.block_number) == [0, 0]

    def test_of_several_changes_in_one_block_the_last_stays(self, evm: Evm, registry: Contract) -> None:
        operator = evm.accounts[0]
        update = registry.functions.updateOperatorRange
        leave, register = registry.functions.leave, registry.functions.registerOperator
        join(evm, registry, 0, 10, 20)
        before = evm.web3.eth.block_number
        changes = [update(operator, start, start + 10) for start in (30, 40, 50)]
        receipts = evm.send_together(changes)
        block = evm.web3.eth.block_number
        assert block == before + 1
        assert [receipt["blockNumber"] for receipt in receipts] == [block] * 3
        evm.send_together([leave(), register(operator, 70, 80), leave()])
        evm.mine()
        ranges = [read(registry, "rangeAt", operator, number) for number in range(before, block + 3)]
        assert ranges == [[10, 20], [50, 60], [0, 0], [0, 0]]
        assert read(registry, "getOperatorsInRange", 55) == []
        assert read(registry, "getNumOperators") == 0

    def test_a_block_to_come_has_no_answer(self, evm: Evm, registry: Contract) -> None:
        with reverts("the block has not come yet"):
            read(registry, "rangeAt", evm.accounts[0], evm.web3.eth.block_number + 2)
