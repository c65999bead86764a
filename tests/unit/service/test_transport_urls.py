"""A worker's URL: what is read from it, and what is said about one that cannot be used; and the errors that httpx promises."""

import httpcore
import httpx
import pytest

from aos_service import transport
from aos_service.errors import ServiceError, WorkerUrlError
from aos_service.transport import WorkerAddress, WorkerTransport, worker_address


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://127.0.0.1:5005", WorkerAddress("http://127.0.0.1:5005")),
        ("http://worker/", WorkerAddress("http://worker")),
        ("https://worker.example:8443/one/", WorkerAddress("https://worker.example:8443/one")),
        ("http://[::1]:65535", WorkerAddress("http://[::1]:65535")),
        ("unix:///run/w.sock", WorkerAddress("http://worker", path="/run/w.sock")),
        ("vsock://15:5005", WorkerAddress("http://worker", vsock=(15, 5005))),
        ("vsock://1:5005", WorkerAddress("http://worker", vsock=(1, 5005))),
        ("vsock://3:1/", WorkerAddress("http://worker", vsock=(3, 1))),
        ("vsock://4294967295:4294967295", WorkerAddress("http://worker", vsock=(2**32 - 1, 2**32 - 1))),
    ],
)
def test_a_url_says_where_the_worker_listens(url: str, address: WorkerAddress) -> None:
    assert worker_address(url) == address


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", "must be http://host:port"),
        ("127.0.0.1:5005", "must be http://host:port"),
        ("ftp://host", "or vsock://CID:PORT"),
        ("unix://worker.sock", "three slashes"),
        ("unix:///", "three slashes"),
        ("unix://host/worker.sock", "three slashes"),
        ("http://", "names no host"),
        ("http://:5005", "names no host"),
        ("http://host:0", "1 to 65535"),
        ("http://host:65536", "1 to 65535"),
        ("http://host:x", "1 to 65535"),
        ("http://host/?model=a", "query or fragment"),
        ("http://[::1", "cannot be read"),
        ("vsock://15", "with two numbers, as vsock://15:5005"),
        ("vsock://enclave:5005", "with two numbers"),
        ("vsock://15:5005/path", "with two numbers"),
        ("vsock://\u0661\u0665:5005", "with two numbers"),
        ("vsock://0:5005", "CID 0: an enclave's is 3 to 4294967295, and 1 is this machine"),
        ("vsock://2:5005", "CID 2: an enclave's is 3 to 4294967295"),
        ("vsock://4294967296:5005", "CID 4294967296"),
        ("vsock://15:0", "port 0: vsock ports are 1 to 4294967295"),
        ("vsock://15:4294967296", "port 4294967296"),
    ],
)
def test_one_that_cannot_be_used_is_explained(url: str, said: str) -> None:
    with pytest.raises(WorkerUrlError, match=said.replace("[", r"\[")) as caught:
        WorkerTransport(url)
    assert isinstance(caught.value, ServiceError)
    assert isinstance(caught.value, ValueError)


def test_every_error_of_httpcore_has_the_one_of_httpx_that_is_called_the_same() -> None:
    """The pool's own `ConnectionNotAvailable` never leaves it."""
    theirs = {
        value for value in vars(httpcore).values() if isinstance(value, type) and issubclass(value, Exception)
    } - {httpcore.ConnectionNotAvailable}
    assert theirs == set(transport._TRANSLATED)
    for foreign, promised in transport._TRANSLATED.items():
        assert foreign.__name__ == promised.__name__
        assert promised is getattr(httpx, foreign.__name__)
