"""A process that keeps its memory to itself, seen from outside."""

import subprocess
import sys

import pytest

_TRY = """
import ctypes, os, resource, sys
from aos_service.hardening import keep_memory_private
before = ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)
keep_memory_private()
print(before, ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), *resource.getrlimit(resource.RLIMIT_CORE))
sys.stdout.flush()
os.abort()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_an_abort_leaves_no_core_and_nobody_of_this_user_can_trace() -> None:
    """The first number of the output is PR_GET_DUMPABLE before, which is 1 for every fresh program."""
    ended = subprocess.run([sys.executable, "-c", _TRY], capture_output=True, text=True, check=False)
    assert ended.stdout.split() == ["1", "0", "0", "0"], ended.stderr
    assert ended.returncode == -6
    assert not ended.stderr.endswith("(core dumped)")
