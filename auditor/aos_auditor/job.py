"""`aos-audit JOB_ID` and `aos-audit FILE`: every check on one job."""

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from aos_auditor import options
from aos_auditor.dispatcher import DispatcherApi
from aos_auditor.documents import JOB_ID, Known, check_document, is_evidence, needs_chain, read_document
from aos_auditor.errors import AuditorError, NotAuditable, Refused
from aos_auditor.http import JsonObject
from aos_auditor.online import check_online
from aos_auditor.report import as_json, exit_status, print_checks
from aos_auditor.rescoring import check_scores_again
from aos_protocol.evidence import Check
from aos_service.logs import configure_logs


@dataclass(frozen=True)
class Sources:
    """What else is asked: a chain's RPC endpoint, a worker that scores; None: is not asked."""

    rpc: str | None = None
    worker: str | None = None


def job(
    subject: Annotated[
        str, typer.Argument(metavar="JOB_ID|FILE", help="A job's id, or a file with its evidence document.")
    ],
    *,
    dispatcher: options.Dispatcher = None,
    dispatcher_address: options.DispatcherAddress = None,
    token_file: options.TokenFile = None,
    rpc: options.Rpc = None,
    deployment: options.DeploymentFile = None,
    registry: options.Registry = None,
    anchor: options.Anchor = None,
    policy: options.Policy = None,
    worker: options.Worker = None,
    model: options.Model = None,
    json_output: options.Json = False,
    strict: options.Strict = False,
) -> None:
    """Audit one job: print a line for each check, and a verdict that counts what passed, failed and was skipped.

    A job id is looked up at --dispatcher. A file is checked offline, unless --dispatcher, --rpc or --worker name somebody to ask.
    """
    configure_logs("aos-audit", level="warning")
    known = Known(
        dispatcher=options.address(dispatcher_address, "--dispatcher-address"),
        job_id=subject if JOB_ID.fullmatch(subject) else None,
        policy=options.read_policy(policy),
        model=model,
        contracts=options.contracts(deployment, registry, anchor),
    )
    api = DispatcherApi(dispatcher, token=options.read_token(token_file)) if dispatcher else None
    checks = asyncio.run(audit(subject, known, api, Sources(rpc, worker)))
    if json_output:
        typer.echo(json.dumps(as_json(subject, checks, strict=strict), indent=2))
    else:
        print_checks(checks)
    raise typer.Exit(exit_status(checks, strict=strict))


async def audit(subject: str, known: Known, api: DispatcherApi | None, sources: Sources) -> list[Check]:
    """Make every check on a job, by id or by the file of its evidence; closes `api`.

    Raises `AuditorError` when there is nothing to check, `WorkerUrlError` and `ChainError` for URLs that are none.
    """
    if api is None:
        return await _audited(read_document(_file(subject)), known, None, sources)
    async with api:
        if known.job_id is None:
            document = read_document(_file(subject))
        else:
            document = await _fetched(api, known.job_id)
        return await _audited(document, known, api, sources)


def _file(subject: str) -> Path:
    if JOB_ID.fullmatch(subject) and not Path(subject).exists():
        raise NotAuditable(f"where is job {subject}? Name its dispatcher with --dispatcher URL")
    return Path(subject)


async def _fetched(api: DispatcherApi, job_id: str) -> JsonObject:
    try:
        return await api.evidence(job_id)
    except Refused as error:
        if error.code in {401, 403}:
            raise NotAuditable(
                f"{error}: it is a private project's job, name a file with its token with --token-file"
            ) from error
        raise


async def _audited(
    document: JsonObject, known: Known, api: DispatcherApi | None, sources: Sources
) -> list[Check]:
    checks = check_document(document, known)
    if not is_evidence(checks):
        return checks
    if api is not None:
        try:
            checks += await check_online(api, document)
        except AuditorError as error:
            checks.append(
                Check("AOS-FRESH-1", "SKIP", f"the dispatcher could not be asked any more: {error}")
            )
    if sources.rpc is not None:
        from aos_auditor.on_chain import check_on_chain  # web3 takes 0.7 s to import

        checks += await check_on_chain(sources.rpc, document, known.contracts)
    else:
        checks += needs_chain(document)
    if sources.worker is not None:
        checks += await check_scores_again(sources.worker, document)
    return checks
