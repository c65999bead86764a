"""A network whose results can be challenged, made once for each file and put back after each test."""

from collections.abc import Iterator

import pytest

from support.challenges import Court


@pytest.fixture(scope="module")
def _courthouse() -> Court:
    return Court()


@pytest.fixture
def court(_courthouse: Court) -> Iterator[Court]:
    """The contracts and eight operators with bonds; nothing has been challenged yet."""
    with _courthouse.evm.undone():
        yield _courthouse
