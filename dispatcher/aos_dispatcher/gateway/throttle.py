"""How many requests one token and one address may send: every POST under /v1 passes here before its job is submitted."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from fastapi import Request

from aos_dispatcher.attempts import caller_address, network_of
from aos_dispatcher.errors import ApiError, TooMany, Unprocessable
from aos_dispatcher.metrics import SUBMISSIONS_REFUSED
from aos_dispatcher.rates import Bucket, Level, Rate, duration, seconds
from aos_dispatcher.service import Dispatcher
from aos_dispatcher.tokens import present

_WHO = {"token": "this API token", "address": "this address"}


async def admit(request: Request, service: Dispatcher, project: str, cost: int = 1) -> dict[str, str]:
    """Count a request of an authorised token of `project`, which asks for `cost` answers; returns what the answer's headers say of it.

    Headers are OpenAI's, of whichever limit leaves less; none where neither is set. Raises `TooMany` with them and `Retry-After`, and
    `Unprocessable` for a cost that never fits.
    """
    buckets = _buckets(request, service, project)
    for bucket in buckets:
        if cost > bucket.rate.burst:
            raise Unprocessable(
                f"n: {cost} answers are more than the {bucket.rate.burst} that {_WHO[bucket.limit]} may ask for at once"
            )
    levels = await service.front.throttle.take(buckets, cost)
    headers = _headers(buckets, levels)
    late, limiting = max(
        ((level.late, bucket) for bucket, level in zip(buckets, levels, strict=True)),
        key=lambda one: one[0],
        default=(0, None),
    )
    if limiting is not None and late:
        raise _refusal(limiting, late, headers)
    return headers


@contextmanager
def told(headers: dict[str, str]) -> Iterator[None]:
    """Have every `ApiError` that is raised inside answer with these headers, too."""
    try:
        yield
    except ApiError as error:
        error.headers = headers | error.headers
        raise


def _refusal(bucket: Bucket, late: int, headers: dict[str, str]) -> TooMany:
    SUBMISSIONS_REFUSED.labels(bucket.limit).inc()
    refusal = TooMany(
        f"{_WHO[bucket.limit]} sends faster than {bucket.rate.rate:g} requests a second, {bucket.rate.burst} at once",
        bucket.limit,
        seconds(late),
    )
    refusal.headers = headers
    return refusal


def _buckets(request: Request, service: Dispatcher, project: str) -> list[Bucket]:
    settings, buckets = service.settings.gateway, []
    if settings.token_rate:
        rate = Rate(settings.token_rate, settings.token_burst)
        buckets.append(Bucket("token", f"token:{_token_name(request, project)}", rate))
    address = caller_address.get()
    if settings.address_rate and address:
        rate = Rate(settings.address_rate, settings.address_burst)
        buckets.append(Bucket("address", f"address:{network_of(address)}", rate))
    return buckets


def _token_name(request: Request, project: str) -> str:
    """Return what a token is called where it is counted: never the token itself."""
    presented = present(request.headers.get("authorization", "").partition(" ")[2])
    if presented is None:
        return f"project:{project}"
    return presented.id or presented.digest


def _headers(buckets: Sequence[Bucket], levels: Sequence[Level]) -> dict[str, str]:
    told = [
        (level.remaining(bucket.rate), -level.missing, bucket.rate.burst)
        for bucket, level in zip(buckets, levels, strict=True)
    ]
    if not told:
        return {}
    remaining, missing, limit = min(told)
    return {
        "x-ratelimit-limit-requests": str(limit),
        "x-ratelimit-remaining-requests": str(remaining),
        "x-ratelimit-reset-requests": duration(-missing),
    }
