"""What `aos submit` asks for: the options that make up a job, and a claim read from a file."""

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from aos_cli.client import JsonObject
from aos_cli.errors import CliError
from aos_protocol.errors import InvalidMessage
from aos_protocol.fields import parse_message
from aos_protocol.job import Claim

Prompt = Annotated[
    str, typer.Argument(help="What to ask; - reads it from standard input.", show_default=False)
]
ModelName = Annotated[
    str | None,
    typer.Option(help="The model's name. Default: that of the running `aos up`.", show_default=False),
]
Temperature = Annotated[
    float | None, typer.Option(min=0, max=5, help="0 takes the likeliest token.", show_default="1.0")
]
TopP = Annotated[
    float | None,
    typer.Option(max=1, help="Sample from this share of the probability.", show_default="1.0"),
]
MaxTokens = Annotated[
    int | None, typer.Option(min=1, help="The answer's greatest length.", show_default="256")
]
Stop = Annotated[
    list[str] | None,
    typer.Option(help="End the answer before this text; up to four times.", show_default=False),
]
JobTag = Annotated[
    Literal["", "suspicion", "malicious"],
    typer.Option(
        help="What the user is suspected of. More operators verify then, and the user's jobs before and after are looked at, too."
    ),
]
User = Annotated[str, typer.Option(help="The user or device that the job is for.")]
JobType = Annotated[
    Literal["opml", "tee"] | None,
    typer.Option(help="Which kind of worker runs it.", show_default="opml; tee with --private"),
]
Private = Annotated[
    bool,
    typer.Option(
        "--private",
        help="Seal the prompt to enclaves that the policy trusts: neither dispatcher nor operators see prompt or answer.",
    ),
]
ReplyKey = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="With --private: keep the key that opens the answer in this new file, for `aos result JOB_ID --reply-key FILE`.",
        show_default=False,
    ),
]
ClaimText = Annotated[
    str | None,
    typer.Option(
        help="Have this answer scored instead of generating one: somebody says that the model gave it.",
        show_default=False,
    ),
]
ClaimFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="The same, for a claim in JSON: text or output_tokens, and seed, prover and fingerprints as far as they are "
        "known. The more it has, the more its verdict says.",
        show_default=False,
    ),
]


def read_prompt(given: str) -> str:
    """Return the prompt, for `-` what standard input holds without its last line's end. Raises `CliError` unless that is UTF-8."""
    if given != "-":
        return given
    try:
        return sys.stdin.buffer.read().decode("utf-8").removesuffix("\n")
    except UnicodeDecodeError as error:
        raise CliError(f"the prompt on standard input is not UTF-8 text (byte {error.start})") from None


def required(option: str, value: str | None) -> str:
    """Return what an option gave. Raises `CliError` when neither it nor a running stack did."""
    if value is None:
        raise CliError(
            f"{option} is needed: it is known only for the stack that `aos up` runs on this machine"
        )
    return value


def read_claim(text: str | None, file: Path | None) -> JsonObject | None:
    """Return the claim to be scored, checked before it is sent.

    Raises:
        CliError: when two are given, or the file holds none.
    """
    if text is None and file is None:
        return None
    if text is not None and file is not None:
        raise CliError("give --claim-text or --claim-file, not both: a job has one claim")
    if file is None:
        return {"text": text}
    try:
        claim = json.loads(file.read_text(encoding="utf-8"))
        parse_message(Claim, claim)
    except (OSError, ValueError, InvalidMessage) as error:
        raise CliError(
            f'the claim in {file} cannot be used: {error}; it is JSON like {{"output_tokens": [1, 2], "seed": "..."}}'
        ) from error
    return dict(claim)
