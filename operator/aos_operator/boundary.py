"""What holds at every boundary to a foreign library, whatever that library does."""

import asyncio


def keep_cancellation() -> None:
    """Raise the cancellation of this task that a library has swallowed; call it after the library returns.

    `asyncio.wait_for` of Python 3.11 drops a cancellation that meets the end of what it waits for
    (https://github.com/python/cpython/issues/86296). redis-py sends every command through it, and a task that loses its
    cancellation there would run on for ever.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
