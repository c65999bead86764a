"""Where images are made: the backend is asked, and what it gives is held against the job before anything is signed."""

import hashlib
from typing import Any, Final

import structlog

from aos_operator.answers import accept_answer
from aos_operator.backends.protocol import Backend, Painter
from aos_operator.backoff import until_available
from aos_operator.courier import Courier
from aos_operator.errors import AnswerRejected, ImageRefused, WorkerRefused
from aos_operator.tasks import Outcome, TaskKey
from aos_protocol.errors import InvalidMessage
from aos_protocol.images import MAX_IMAGE_BYTES, image_record
from aos_protocol.job import ImageSpec
from aos_protocol.messages import Dispatch

_NO_PAINTER: Final = "no backend of this operator makes images"

_log = structlog.get_logger(__name__)


class Studio:
    """Works on jobs for images with one backend; `operator` is this operator's address."""

    def __init__(self, backend: Backend, operator: str, courier: Courier) -> None:
        self._backend = backend
        self._operator = operator
        self._courier = courier

    async def paint(self, dispatch: Dispatch, image: ImageSpec) -> Outcome:
        """Have the images made, and keep them; what cannot be done has a reason. Whatever is away is asked again."""
        try:
            answer = await self._answer(dispatch, image)
            outcome = accept_answer(answer, dispatch, self._operator)
            blobs = check_images(answer, outcome, image)
        except (WorkerRefused, AnswerRejected, ImageRefused) as error:
            _log.warning("the job has no images", reason=str(error))
            return Outcome.failed(str(error))
        await until_available(lambda: self._courier.keep(TaskKey.of(dispatch), blobs), "keeping the images")
        return outcome

    async def _answer(self, dispatch: Dispatch, image: ImageSpec) -> dict[str, Any]:
        painter, digest = self._backend, image.source
        if not isinstance(painter, Painter):
            raise WorkerRefused(_NO_PAINTER)
        source = None
        if digest is not None:
            source = await until_available(
                lambda: self._courier.fetch(dispatch.job_id, digest, MAX_IMAGE_BYTES),
                "fetching the image to be edited",
            )
        return await until_available(
            lambda: painter.paint(dispatch.job, image, source),
            "having images made by the backend",
        )


def check_images(answer: dict[str, Any], outcome: Outcome, image: ImageSpec) -> dict[str, bytes]:
    """Return the images that an accepted answer names, by digest, and no others.

    Raises `AnswerRejected` unless each of them is there, as its record says, and as large in pixels as the job wants it.
    """
    blobs = answer.get("blobs")
    given = blobs if isinstance(blobs, dict) else {}
    named = {}
    for record in (outcome.record or {}).get("images") or []:
        data = given.get(record["sha256"])
        if not isinstance(data, bytes) or hashlib.sha256(data).hexdigest() != record["sha256"]:
            raise AnswerRejected(
                f"the backend's answer names image {record['sha256']}, and does not bring it"
            )
        try:
            found = image_record(data)
        except InvalidMessage as error:
            raise AnswerRejected(f"the backend's answer brings an image that is none: {error}") from error
        if found.to_json() != record:
            raise AnswerRejected(f"image {found.sha256} is not as the backend's answer says")
        if (found.width, found.height) != (image.width, image.height):
            raise AnswerRejected(
                f"the backend made an image of {found.width} x {found.height}, and {image.width} x {image.height} was asked for"
            )
        named[found.sha256] = data
    return named
