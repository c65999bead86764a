"""The seccomp program, run by an interpreter of the four instructions that it has, for both architectures."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aos_tee_worker import seccomp

X86_64, ARM64 = 0xC000003E, 0xC00000B7
ALLOW, EPERM = 0x7FFF0000, 0x00050001
MACHINES = {"x86_64": X86_64, "aarch64": ARM64}
COLUMNS = {"x86_64": 0, "aarch64": 1}
SERVING = {
    "x86_64": {
        "read": 0,
        "mmap": 9,
        "accept4": 288,
        "listen": 50,
        "socketpair": 53,
        "clone3": 435,
        "exit_group": 231,
    },
    "aarch64": {
        "read": 63,
        "mmap": 222,
        "accept4": 242,
        "listen": 201,
        "socketpair": 199,
        "clone3": 435,
        "exit_group": 94,
    },
}
"""What a server on an inherited socket needs."""


def verdict(machine: str, audit: int, number: int) -> int:
    """What the program for this machine says of a call; as the kernel, it reads 32-bit words and jumps forward only."""
    program = seccomp.instructions(machine)
    words = {0: number, 4: audit}
    accumulator, at = 0, 0
    while True:
        line = program[at]
        at += 1
        match line.code:
            case 0x20:
                accumulator = words[line.k]
            case 0x15:
                at += line.yes if accumulator == line.k else line.no
            case 0x35:
                at += line.yes if accumulator >= line.k else line.no
            case 0x06:
                return line.k
            case _:
                raise AssertionError(f"an instruction that the program should not have: {line.code:#x}")


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("name", seccomp.REFUSED)
def test_what_leads_out_is_refused(machine: str, name: str) -> None:
    number = seccomp.REFUSED[name][COLUMNS[machine]]
    assert verdict(machine, MACHINES[machine], number) == EPERM


@pytest.mark.parametrize("machine", MACHINES)
def test_what_serving_takes_is_allowed(machine: str) -> None:
    for name, number in SERVING[machine].items():
        assert verdict(machine, MACHINES[machine], number) == ALLOW, name


@given(st.sampled_from(sorted(MACHINES)), st.integers(0, 2**32 - 1))
def test_nothing_else_is_refused_but_the_other_form_of_calls(machine: str, number: int) -> None:
    refused = {each[COLUMNS[machine]] for each in seccomp.REFUSED.values()}
    expected = EPERM if number in refused or number >= 0x40000000 else ALLOW
    assert verdict(machine, MACHINES[machine], number) == expected


@given(st.sampled_from(sorted(MACHINES)), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_calls_of_another_architecture_are_refused(machine: str, audit: int, number: int) -> None:
    if audit != MACHINES[machine]:
        assert verdict(machine, audit, number) == EPERM


@pytest.mark.parametrize("machine", MACHINES)
def test_every_jump_stays_inside(machine: str) -> None:
    program = seccomp.instructions(machine)
    for at, line in enumerate(program):
        assert at + 1 + max(line.yes, line.no) < len(program) or line.code == 0x06
    assert [line.k for line in program[-2:]] == [ALLOW, EPERM]


def test_an_architecture_that_is_not_known_is_left_alone() -> None:
    with pytest.raises(OSError, match="riscv64 are not known"):
        seccomp.instructions("riscv64")
