"""Taking in `job_stream`: what executors say of streamed jobs while they run. It is a notice: it changes nothing but what followers read.

Only the executor of a round is heard, and only while its seat is open, by whoever leads the round. A process that has the connection and not the
round passes the frame on as it was signed.
"""

from collections.abc import Iterable

from aos_dispatcher.committee import SeatState
from aos_dispatcher.driver import Active
from aos_dispatcher.errors import Refused
from aos_dispatcher.mesh import Mesh
from aos_dispatcher.metrics import STREAM_DELTAS
from aos_dispatcher.newsroom import Newsroom
from aos_dispatcher.round import ActiveRound
from aos_protocol.fields import parse_message
from aos_protocol.frames import Frame, open_frame
from aos_protocol.messages import Delta, JobStream

METHOD = "job_stream"


class StreamIntake:
    """Holds deltas against the rounds at work in this process."""

    def __init__(self, active: Active, newsroom: Newsroom, mesh: Mesh | None, frame_bytes: int) -> None:
        self._active = active
        self._newsroom = newsroom
        self._mesh = mesh
        self._frame_bytes = frame_bytes

    def accept(self, frame: Frame) -> None:
        """Take in a notice of an operator that is connected here. Raises `ProtocolError` for one of the wrong form."""
        deltas = parse_message(JobStream, frame.params[0]).deltas
        elsewhere = [delta for delta in deltas if self._round_of(delta) is None]
        if len(elsewhere) < len(deltas):
            self._tell(frame.address, deltas)
        if elsewhere and self._mesh is not None:
            self._mesh.stream({(delta.job_id, delta.tag) for delta in elsewhere}, frame)

    def passed_on(self, rounds: Iterable[tuple[str, str]], text: str) -> None:
        """Take in a notice that came to another process. Raises `ProtocolError` and `Refused`."""
        if not any((job_id, tag, 0) in self._active for job_id, tag in rounds):
            return
        frame = open_frame(text, max_bytes=self._frame_bytes)
        if frame.method != METHOD or len(frame.params) != 1:
            raise Refused(400, f"another process passed a {frame.method!r} on as a {METHOD!r}")
        self._tell(frame.address, parse_message(JobStream, frame.params[0]).deltas)

    def _tell(self, operator: str, deltas: Iterable[Delta]) -> None:
        """Tell followers of those deltas that are of rounds led here, whose executor this operator is; the others come too late, or are no news."""
        heard = []
        for delta in deltas:
            round_ = self._round_of(delta)
            if round_ is not None and _is_executing(round_, operator):
                round_.told.add(operator, delta)
                heard.append(delta)
                STREAM_DELTAS.labels("told").inc()
            elif round_ is not None:
                STREAM_DELTAS.labels("ignored").inc()
        if heard:
            self._newsroom.deltas(operator, heard)

    def _round_of(self, delta: Delta) -> ActiveRound | None:
        return self._active.get((delta.job_id, delta.tag, 0))


def _is_executing(round_: ActiveRound, operator: str) -> bool:
    """Whether this operator is to do a streamed job, as its executor, and has not answered yet.

    Whether the job was sent on this connection does not matter: whoever was connected again, or has a new leader, tells before it is asked again.
    """
    executor = round_.committee.executor
    return (
        executor is not None
        and executor.operator == operator
        and executor.state is SeatState.ASSIGNED
        and round_.facts.own
        and round_.facts.request.job.stream is True
    )
