"""The worker with all that makes its output verifiable taken out: no fingerprints, and answers without transcript and commitment.

The draw stays as it is: some sampling there must be. There is no such setting; this is what it would save.
"""

import numpy as np
from pydantic import BaseModel

from aos_inference import worker
from aos_inference.main import app
from aos_protocol import fingerprint

_NOTHING = np.zeros((1, fingerprint.DIRECTIONS), np.float16)


class PlainAnswer(BaseModel):
    """What is left of an answer."""

    text: str
    tokens: int


def _plain_answer(_: worker.Worker, generation: worker.Generation) -> PlainAnswer:
    return PlainAnswer(text=generation.text, tokens=len(generation.output))


fingerprint.directions = lambda *_: _NOTHING  # type: ignore[assignment]
fingerprint.project = lambda *_: _NOTHING
worker.Worker.answer = _plain_answer  # type: ignore[assignment, method-assign]
app()
