"""`aos rounds`, `challenge`, `appeal` and `standing`: which looks there were, have another, and what was found against an operator."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from aos_cli.checks import domain_of
from aos_cli.client import DispatcherClient, JsonObject
from aos_cli.errors import CliError
from aos_cli.keys import PasswordFile, ask_password
from aos_cli.show import COLOURS, make_console, printable
from aos_cli.target import Data, Dispatcher, JobId, TokenFile, call, checked_address, target_of
from aos_protocol.errors import ProtocolError
from aos_protocol.evidence import answers
from aos_protocol.identity import Signer
from aos_protocol.typed_data import ChallengeClaim, sign_typed
from aos_service.keys import open_keystore
from aos_service.logs import configure_logs

OperatorAddress = Annotated[
    str, typer.Argument(metavar="OPERATOR", help="The operator's address.", callback=checked_address)
]
Tag = Annotated[
    Literal["", "suspicion", "malicious"] | None,
    typer.Option(
        help="Under which tag, if the operator answered this job under several.", show_default=False
    ),
]
Reason = Annotated[str, typer.Option(help="Why, in a sentence; it is kept with the challenge.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def rounds(
    *,
    user: Annotated[str, typer.Argument(help="The user or device, as jobs name it.")],
    limit: Annotated[int, typer.Option(min=1, max=100, help="How many, newest first.")] = 20,
    before: Annotated[
        str | None, typer.Option(help="Go on behind this round: the last one's number.", show_default=False)
    ] = None,
    as_json: AsJson = False,
    dispatcher: Dispatcher = None,
    token_file: TokenFile = None,
    data: Data = None,
) -> None:
    """List the rounds in which a user's jobs were verified: tagged ones, audits, second looks and challenges.

    A user is tagged by a job with --tag: its ten jobs before are run again (before), the ten after are run under the tag (after).
    """
    query: JsonObject = {"user": user, "limit": limit} | ({"before": before} if before else {})
    page = call(target_of(data, dispatcher, token_file), lambda client: client.verifications(query))
    if as_json:
        _print_json(page)
        return
    _show_rounds(make_console(), page["result"])
    if page["next"]:
        typer.echo(f"there are more: aos rounds {user} --before {page['next']}", err=True)
    if not page["result"]:
        typer.echo(f"no job of {user} was verified, as far as you may read them", err=True)


def challenge(
    *,
    job_id: JobId,
    operator: OperatorAddress,
    reason: Reason = "",
    tag: Tag = None,
    keystore: Annotated[
        Path | None,
        typer.Option(
            help="Challenge as the registered operator whose key this is. Default: as the project, by its token.",
            show_default=False,
        ),
    ] = None,
    password_file: PasswordFile = None,
    as_json: AsJson = False,
    dispatcher: Dispatcher = None,
    token_file: TokenFile = None,
    data: Data = None,
) -> None:
    """Have an operator's answer scored again by a committee that nobody could know before.

    Whoever made the answer is not asked. The committee's seed is the dispatcher's VRF output on the job and the challenge's
    number. If the answer fails, the first step that cannot be honest is kept with its Merkle proof, and counts against the operator.
    """
    target = target_of(data, dispatcher, token_file)
    signer = None if keystore is None else _opened(keystore, password_file)

    async def ask(client: DispatcherClient) -> JsonObject:
        body: JsonObject = {"job_id": job_id, "operator": operator, "reason": reason}
        if signer is None:
            return await client.challenge(body if tag is None else body | {"tag": tag})
        document = await client.evidence(job_id)
        under = _tag_of(document, operator, tag)
        signed = _signature(document, signer, "challenge", f"{operator}_{job_id}_{under}", reason)
        return await client.challenge(
            body | {"tag": under, "challenger": signer.address, "signature": signed}
        )

    _say(call(target, ask), as_json=as_json)


def appeal(
    *,
    job_id: JobId,
    keystore: Annotated[Path, typer.Option(help="The suspended operator's key.", show_default=False)],
    reason: Reason = "",
    tag: Tag = None,
    password_file: PasswordFile = None,
    as_json: AsJson = False,
    dispatcher: Dispatcher = None,
    token_file: TokenFile = None,
    data: Data = None,
) -> None:
    """Have an own answer scored once more that a suspension rests on; an operator may do that once.

    `aos standing` lists what was found. If the new committee finds the answer to be the model's, the finding is withdrawn.
    """
    target = target_of(data, dispatcher, token_file)
    signer = _opened(keystore, password_file)

    async def ask(client: DispatcherClient) -> JsonObject:
        document = await client.evidence(job_id)
        result = f"{signer.address}_{job_id}_{_tag_of(document, signer.address, tag)}"
        signed = _signature(document, signer, "appeal", result, reason)
        return await client.appeal(
            {"operator": signer.address, "result": result, "reason": reason, "signature": signed}
        )

    _say(call(target, ask), as_json=as_json)


def standing(
    *,
    operator: OperatorAddress,
    as_json: AsJson = False,
    dispatcher: Dispatcher = None,
    token_file: TokenFile = None,
    data: Data = None,
) -> None:
    """Show where an operator stands: what was found against it, whether it is suspended, and whether it may appeal."""
    found = call(target_of(data, dispatcher, token_file), lambda client: client.standing(operator))
    if as_json:
        _print_json(found)
    else:
        _show(make_console(), found)


def _opened(keystore: Path, password_file: Path | None) -> Signer:
    configure_logs("aos", level="warning", json=False)  # to stderr, beside what is data
    return open_keystore(keystore, ask_password(password_file))


def _say(opened: JsonObject, *, as_json: bool) -> None:
    """Say which challenge or appeal is open, and how to follow it."""
    if as_json:
        _print_json(opened)
    else:
        what = f"{opened.get('purpose')} {opened.get('challenge')} of {opened.get('result')}"
        typer.echo(f"{what} is {opened.get('status')}")
    typer.echo(f"aos verify {opened.get('job_id')} shows and checks it once it is decided", err=True)


def _show_rounds(console: Console, rows: Sequence[JsonObject]) -> None:
    table = Table(box=None, show_header=True, header_style="dim", padding=(0, 2, 0, 0))
    for column in ("round", "at (UTC)", "job", "why", "verdict", "reason"):
        table.add_column(column, overflow="fold")
    for row in rows:
        verdict = str(row.get("verdict") or row.get("status"))
        why = " ".join(str(row[key]) for key in ("purpose", "tag", "position") if row.get(key))
        table.add_row(
            *(Text(str(row.get(key))) for key in ("verify_id", "created_at", "job_id")),
            Text(why),
            Text(verdict, COLOURS.get(verdict, "")),
            Text(printable(str(row.get("reason") or ""))),
        )
    if rows:
        console.print(table)


def _show(console: Console, found: JsonObject) -> None:
    frauds = [fraud for fraud in found.get("frauds", []) if fraud.get("status") == "upheld"]
    since = f" since {found['suspended_at']} UTC" if found.get("suspended_at") else ""
    allowed = found.get("suspend_after")
    lines = [
        f"{found.get('operator')}  {found.get('standing')}{since}",
        f"findings that stand: {len(frauds)}, {allowed} suspend an operator; appeal: {found.get('appeal')}",
    ]
    lines += [_finding(fraud) for fraud in found.get("frauds", [])]
    for line in lines:
        console.print(Text(line), soft_wrap=True)


def _finding(fraud: JsonObject) -> str:
    if fraud.get("result") is None:
        what = f"over many jobs, up to {fraud.get('job_id')}"
    else:
        step = (
            "no single step shows it" if fraud.get("step") is None else f"first wrong step: {fraud['step']}"
        )
        what = f"job {fraud.get('job_id')}, {step}"
    return f"  {fraud.get('created_at')}  {fraud.get('status')}: {what}"


def _tag_of(document: JsonObject, operator: str, tag: str | None) -> str:
    """Return under which tag an operator answered, from what it signed.

    Raises:
        CliError: when it did not, or more than once and `tag` does not say which is meant.
    """
    try:
        tags = [
            said.tag for said in answers(document) if said.operator == operator and tag in {None, said.tag}
        ]
    except ProtocolError as error:
        raise CliError(f"the job's evidence cannot be read: {error}") from error
    if not tags:
        raise CliError(f"operator {operator} has no answer to this job: aos result JOB lists who has")
    if len(tags) > 1:
        raise CliError(f"the operator answered under several tags: choose one of {tags} with --tag")
    return tags[0]


def _signature(document: JsonObject, signer: Signer, purpose: str, result: str, reason: str) -> str:
    return sign_typed(signer, domain_of(document), ChallengeClaim(signer.address, purpose, result, reason))


def _print_json(value: JsonObject) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))
