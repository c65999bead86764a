"""What only some dispatchers have installed."""

from collections.abc import Iterator
from contextlib import contextmanager

from aos_dispatcher.errors import DispatcherError


@contextmanager
def chain_extra() -> Iterator[None]:
    """Say what to install when an import within fails: web3 comes with an extra, since few dispatchers need it."""
    try:
        yield
    except ImportError as error:
        raise DispatcherError(
            f"chain.rpc_url needs {error.name}, which is not installed: install aos with the extra `chain`"
        ) from error
