"""`aos chat`: a conversation in the terminal, through the dispatcher's gateway, or with `--direct` with an operator alone."""

import signal
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated, TypeAlias

import typer
from rich.console import Console
from rich.text import Text

from aos_cli import direct
from aos_cli.asking import MaxTokens, ModelName, Temperature, TopP, User, read_prompt, required
from aos_cli.chat_gateway import GatewayAnswer
from aos_cli.client import DispatcherClient, JsonObject
from aos_cli.direct import Opened, Wanted, open_session
from aos_cli.direct_wire import RELAYED
from aos_cli.errors import CliError
from aos_cli.failures import Interrupted
from aos_cli.interrupts import Interrupts
from aos_cli.show import make_console, printable
from aos_cli.target import Data, Dispatcher, DispatcherAddress, Target, TokenFile, target_of
from aos_protocol.evidence import Check

Messages: TypeAlias = list[JsonObject]

_LEAVE = "/exit"
_BY_CTRL_C = 128 + signal.SIGINT
_HELP = f"{_LEAVE} or Ctrl-D leaves, Ctrl-C stops an answer."


@dataclass(frozen=True)
class _Chat:
    """Whom to ask, and how."""

    target: Target
    model: str
    params: JsonObject
    user: str
    direct: bool
    console: Console


def chat(
    *,
    prompt: Annotated[
        str | None,
        typer.Argument(
            help="Ask this and leave; - reads it from standard input. Without it, a conversation.",
            show_default=False,
        ),
    ] = None,
    direct: Annotated[
        bool,
        typer.Option(
            "--direct",
            help="Talk to the operator alone: it is drawn as for any job, and what you say to each other is encrypted from end to end.",
        ),
    ] = False,
    model: ModelName = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    max_tokens: MaxTokens = None,
    user: User = "aos-cli",
    dispatcher: Dispatcher = None,
    dispatcher_address: DispatcherAddress = None,
    token_file: TokenFile = None,
    data: Data = None,
) -> None:
    """Chat with a model of the network.

    Each answer is a job, drawn, signed and in the log; the line below it says who gave it, and where its evidence is. `aos verify JOB_ID`
    checks that.

    With --direct, the dispatcher draws an operator and signs who that is; the operator signs for its key; all of that, and the draw, is
    checked here before your prompt leaves. Then prompt and answer go sealed: straight to the operator where it can be reached, else by
    way of the dispatcher, which reads neither. What the operator signed goes into the log all the same, without either, and is checked
    here against what you read. Nobody else can score such an answer: that is the price of nobody else reading it.
    """
    target = target_of(data, dispatcher, token_file, address=dispatcher_address)
    given = {"temperature": temperature, "top_p": top_p, "max_tokens": max_tokens}
    params = {name: value for name, value in given.items() if value is not None}
    chatting = _Chat(
        target, required("--model NAME", model or target.model), params, user, direct, make_console()
    )
    if prompt is not None:
        try:
            with Interrupts() as interrupts:
                interrupts.run(_answer(chatting, [_turn("user", read_prompt(prompt))]))
        except Interrupted as stopped:
            raise typer.Exit(stopped.exit_status) from None
        return
    _converse(chatting)


def _converse(chatting: _Chat) -> None:
    """Read prompts and answer them until somebody leaves; what goes wrong with one answer ends no conversation."""
    console, messages = chatting.console, list[JsonObject]()
    console.print(Text(f"{chatting.model}{', direct' if chatting.direct else ''}. {_HELP}", "dim"))
    while (said := _read(console)) is not None:
        if not said:
            continue
        asked = [*messages, _turn("user", said)]
        try:
            with Interrupts() as interrupts:
                answer = interrupts.run(_answer(chatting, asked))
        except Interrupted as stopped:
            if stopped.exit_status != _BY_CTRL_C:
                raise typer.Exit(stopped.exit_status) from None
            console.print(Text("\nstopped", "yellow"))
        except CliError as error:
            console.print(Text(f"error: {error}", "red"), soft_wrap=True)
        else:
            messages = [*asked, _turn("assistant", answer)]


def _read(console: Console) -> str | None:
    """Return what the user says next; None when that is goodbye."""
    while True:
        try:
            said = console.input(Text("> ", "bold")).strip()
        except EOFError:
            return None
        except KeyboardInterrupt:
            console.print(Text(f"\n{_HELP}", "dim"))
            continue
        return None if said == _LEAVE else said


async def _answer(chatting: _Chat, messages: Messages) -> str:
    """Ask, show the answer as it comes, and what stands for it; return its text."""
    target = chatting.target
    async with DispatcherClient(target.url, token=target.token) as client:
        if chatting.direct:
            return await _direct(chatting, client, messages)
        answer = GatewayAnswer()
        wanted = {"model": chatting.model, "messages": messages, "user": chatting.user, **chatting.params}
        text = await _show(chatting.console, answer.texts(client, wanted))
        _say(chatting.console, f"{answer.operator}; evidence: {target.url}{answer.evidence}")
        return text


async def _direct(chatting: _Chat, client: DispatcherClient, messages: Messages) -> str:
    target, console = chatting.target, chatting.console
    wanted = Wanted(chatting.model, chatting.params, chatting.user, {"messages": messages})
    opened = await open_session(client, wanted, dispatcher=target.address)
    _say(console, f"drawn, and sealed to: {opened.session.operator}")
    text = await _show(console, direct.answer(client, opened))
    checks = await direct.verify(client, opened, dispatcher=target.address)
    _say(console, _stands(opened, checks))
    _say(console, f"evidence: {target.url}/api/job/evidence/{opened.job_id}")
    return text


def _stands(opened: Opened, checks: Sequence[Check]) -> str:
    """Say by which way the answer came, and what stands for it. Raises `CliError` when something does not hold."""
    bad = [f"{check.id} {check.what}" for check in checks if check.status == "FAIL"]
    good = {check.id for check in checks if check.status == "PASS"}
    if bad or direct.DIRECT not in good:
        raise CliError(
            f"do not rely on this answer: {'; '.join(bad) or 'it was not held against its signature'}"
        )
    skipped = sum(check.status == "SKIP" for check in checks)
    way = opened.way if opened.way == RELAYED else f"{opened.way}, encrypted from end to end"
    passed = sum(check.status == "PASS" for check in checks)
    return f"{way}; signed by the operator: {passed} checks pass, {skipped} cannot be made"


async def _show(console: Console, texts: AsyncGenerator[str, None]) -> str:
    """Print a text as it comes, without its control characters; return all of it."""
    said = []
    async with aclosing(texts) as pieces:
        async for text in pieces:
            said.append(text)
            console.print(Text(printable(text)), end="", soft_wrap=True)
    console.print()
    return "".join(said)


def _say(console: Console, what: str) -> None:
    console.print(Text(printable(what), "dim"), soft_wrap=True)


def _turn(role: str, content: str) -> JsonObject:
    return {"role": role, "content": content}
