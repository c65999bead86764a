"""A worker that is in the middle of a job."""

from collections.abc import Callable
from concurrent.futures import Future

import httpx


def at_work(submit: Callable[[], "Future[httpx.Response]"], other: httpx.Client) -> "Future[httpx.Response]":
    """Submit a job, and again whenever one ended before it was seen, until the worker says that it works on one."""
    running = submit()
    while other.get("/healthz").json()["active"] == 0:
        if running.done():
            running = submit()
    return running
