"""Whether a dispatcher answers, with whom, what it can run, and whether its clock agrees with ours."""

from collections.abc import Callable
from uuid import uuid4

from aos_cli.client import DispatcherClient, Readiness
from aos_cli.errors import CliError
from aos_cli.failures import ApiError, NoDispatcher
from aos_cli.findings import Finding, Findings, NotLookedAt, find
from aos_cli.target import Target

_MOST_SKEW_S = 5.0  # the header it is measured with has whole seconds


async def dispatcher_findings(target: Callable[[], Target]) -> Findings:
    """Look at the dispatcher that `target` finds."""
    try:
        chosen = target()
    except NoDispatcher as error:
        yield Finding("SKIP", "dispatcher", str(error))
        return
    async with DispatcherClient(chosen.url, token=chosen.token) as client:
        readiness: list[Readiness] = []

        async def ready() -> str:
            readiness.append(await client.ready())
            return f"{chosen.url} takes jobs"

        yield (answered := await find("dispatcher", ready))
        if answered.status == "PASS":
            yield await find("operators", lambda: _operators(readiness[0]))
            yield await find("models", lambda: _models(client, chosen))
            yield await find("clock", lambda: _clock(readiness[0]))


async def _operators(readiness: Readiness) -> str:
    if readiness.operators == 0:
        raise CliError(
            "no operator is connected: start one with operator-runner -c FILE, jobs wait until then"
        )
    return f"{readiness.operators} connected"


async def _models(client: DispatcherClient, target: Target) -> str:
    """Ask for a model that nobody has: the refusal lists what there is, and nothing is stored."""
    if target.token is None or target.project is None:
        raise NotLookedAt("the dispatcher lists its models to projects only: give --token-file and --project")
    job = {"tag": "opml", "prompt": "?", "model": f"none-{uuid4().hex}", "params": {}}
    try:
        await client.submit({"from": target.project, "tag": "", "user": "aos-doctor", "job": job})
    except ApiError as error:
        _, found, models = str(error).partition("there is: ")
        if not found:
            raise
        return models.removesuffix(f" ({error.code})")
    raise CliError("the dispatcher took a job for a model that nobody can have: find out what answers there")


async def _clock(readiness: Readiness) -> str:
    if readiness.skew is None:
        raise NotLookedAt("the dispatcher sends no Date header to compare with")
    if abs(readiness.skew) > _MOST_SKEW_S:
        ahead = "ahead of" if readiness.skew > 0 else "behind"
        raise CliError(f"the dispatcher's is {abs(readiness.skew):.0f} s {ahead} ours: let NTP set both")
    return "agrees with the dispatcher's"
