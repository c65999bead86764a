"""What can go wrong in an operator. A class's docstring is its default message; messages say what to do next."""


class OperatorError(Exception):
    """Base of everything that the operator raises itself."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or " ".join((type(self).__doc__ or "").split()))


class StartError(OperatorError):
    """The operator cannot run as it is set up; `exit_code` is the process's."""

    exit_code = 2


class DispatcherRefused(StartError):
    """The dispatcher does not let this operator connect."""

    exit_code = 3


class WrongDispatcher(StartError):
    """What answers at dispatcher_url does not hold the key of dispatcher_address."""

    exit_code = 4


class WrongNetwork(StartError):
    """The dispatcher signs for another chain or registry than the operator reads."""

    exit_code = 4


class Replaced(StartError):
    """Another process has connected with this operator's key; stop one of the two."""

    exit_code = 5


class Unavailable(OperatorError):
    """Something that this operator needs does not answer at the moment; the attempt is repeated."""


class StoreUnavailable(Unavailable):
    """PostgreSQL does not answer; check its service, the operator reconnects by itself."""


class QueueUnavailable(Unavailable):
    """Redis does not answer; check its service, the operator reconnects by itself."""


class WorkerUnavailable(Unavailable):
    """The inference worker does not answer; start it, the operator tries again by itself."""


class WorkerBusy(WorkerUnavailable):
    """The worker has no room for this job now; the operator asks again by itself."""


class RegistryUnavailable(Unavailable):
    """The chain's RPC endpoint does not answer; check chain.chain_rpc_url."""


class LinkLost(Unavailable):
    """The connection to the dispatcher is gone, or it did not reply in time; the operator connects again."""


class DispatcherLeaves(LinkLost):
    """This process of the dispatcher is being stopped; the operator connects to another one, or again."""


class WorkerRefused(OperatorError):
    """The worker cannot do this job; its message becomes the result's reason."""


class AnswerRejected(OperatorError):
    """The worker's answer does not fit the job; nothing of it is signed."""


class ImageRefused(OperatorError):
    """The dispatcher does not take, or does not give, an image that a job needs; its message becomes the result's reason."""


class Refused(OperatorError):
    """What the dispatcher asks is refused: `code` and message go into the reply (docs/protocol.md)."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
