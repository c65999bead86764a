"""What a client is told of its jobs, from news of them to bytes: a state machine without I/O, which `responses` drives."""

from collections.abc import Sequence

from aos_dispatcher.following import Answered, Broken, News, Piece, Queued
from aos_dispatcher.gateway.chunks import Ending, Rendering, comment, ending
from aos_dispatcher.gateway.errors import JobFailed


class Telling:
    """One request's answers as they come; `stop` are the sequences that it named."""

    def __init__(self, rendering: Rendering, stop: Sequence[str]) -> None:
        self._rendering = rendering
        self._stop = stop
        self._ended: dict[int, Ending] = {}
        self._broken: set[int] = set()

    @property
    def open(self) -> list[str]:
        """The ids of the jobs that have not ended yet."""
        ended = self._ended.keys() | self._broken
        return [job for number, job in enumerate(self._rendering.jobs) if number not in ended]

    @property
    def whole(self) -> bool:
        """Whether every job has answered."""
        return len(self._ended) == len(self._rendering.jobs)

    @property
    def endings(self) -> list[Ending]:
        """How the choices ended, in their order, once nothing is open."""
        return [self._ended[number] for number in sorted(self._ended)]

    def begin(self) -> bytes:
        """Return the events before all others."""
        return b"".join(self._rendering.opening())

    def hear(self, number: int, news: News) -> bytes:
        """Take news of a choice; return the events that tell of it. Raises `JobFailed` for a job that has no answer."""
        match news:
            case Piece():
                return self._rendering.piece(number, news.text, news.logprobs)
            case Queued():
                return comment(f"queued {news.position}")
            case Answered():
                return self._end(number, ending(news.result, self._stop))
            case Broken():
                self._broken.add(number)
                job = self._rendering.jobs[number]
                raise JobFailed(f"job {job} has no answer: {news.reason}", job_id=job, status=news.status)

    def _end(self, number: int, end: Ending) -> bytes:
        self._ended[number] = end
        endings = self.endings if self.whole else None
        told = [self._rendering.closing(number, end, endings)]
        if endings is not None:
            told += self._rendering.trailer(endings)
        return b"".join(told)
