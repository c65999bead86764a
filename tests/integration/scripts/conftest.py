"""What the tests of scripts share."""

from pathlib import Path

import pytest

from support.nitro_host import Host, nitro_host


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """A Nitro host of fakes, ready, with no enclave running."""
    return nitro_host(tmp_path)
