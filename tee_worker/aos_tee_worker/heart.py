"""The enclave's end of the heartbeat: a byte a second, as long as the event loop runs and the engine gets on."""

import asyncio
import os
import signal
from typing import Final, Protocol

from aos_inference.engine import Load

BEAT_S: Final = 1.0
STALLED_S: Final = 300.0
"""How long one step may take, of at most 128 tokens read: a prompt of any length is many steps. Less than half a token a second is a hang."""


class Engine(Protocol):
    """What of `aos_inference.engine.Engine` shows that it gets on."""

    @property
    def load(self) -> Load:
        """How busy it is."""
        ...

    @property
    def steps(self) -> int:
        """Batches computed since the start."""
        ...


class Heart:
    """Beats on a pipe that the supervisor reads; `stalled` are the seconds that a step may take."""

    def __init__(self, pipe: int, engine: Engine, stalled: float = STALLED_S) -> None:
        os.set_blocking(pipe, False)
        self._pipe = pipe
        self._engine = engine
        self._stalled = stalled
        self._steps = -1
        self._since = 0.0

    async def beat(self) -> None:
        """Beat until cancelled; end this process in good order when the supervisor is gone."""
        while True:
            if self.gets_on(asyncio.get_running_loop().time()):
                try:
                    os.write(self._pipe, b".")
                except BlockingIOError:
                    pass  # it does not read at present: enough beats are waiting for it
                except BrokenPipeError:
                    signal.raise_signal(signal.SIGTERM)
                    return
            await asyncio.sleep(BEAT_S)

    def gets_on(self, now: float) -> bool:
        """Whether the engine is idle or has made a step in the last seconds, at this time of a monotonic clock."""
        steps = self._engine.steps
        if steps != self._steps or self._engine.load.active == 0:
            self._steps, self._since = steps, now
        return now - self._since < self._stalled
