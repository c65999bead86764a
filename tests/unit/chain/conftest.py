"""A network whose results can be challenged, made once for each file and put back after each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.challenges import Court

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Bound hangs later here: some tests compute for ten seconds, which are a minute where others compute as well."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.timeout(300))


@pytest.fixture(scope="module")
def _courthouse() -> Court:
    return Court()


@pytest.fixture
def court(_courthouse: Court) -> Iterator[Court]:
    """The contracts and eight operators with bonds; nothing has been challenged yet."""
    with _courthouse.evm.undone():
        yield _courthouse
