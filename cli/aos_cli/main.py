"""The `aos` command."""

from pathlib import Path
from typing import Annotated

import typer

from aos_cli import chain, disputes, jobs, keys
from aos_cli.attest import attest
from aos_cli.calibrate import calibrate
from aos_cli.chat import chat
from aos_cli.client import certificate_authorities
from aos_cli.demo import demo
from aos_cli.doctor import doctor
from aos_cli.errors import MessageGroup
from aos_cli.provider import provider
from aos_cli.submit import submit
from aos_cli.up import up

app = typer.Typer(
    name="aos",
    cls=MessageGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="AOS, inference that can be checked: run a network, submit jobs to it, and verify their answers.",
    epilog='Example: aos demo, or aos up in one terminal and aos submit "What is AI?" --wait in another.',
)


@app.callback()
def _start(
    ca: Annotated[
        Path | None,
        typer.Option(
            envvar="AOS_CA",
            metavar="FILE",
            help="The authorities, in PEM form, by which a dispatcher at https:// is believed. Default: the system's.",
            show_default=False,
        ),
    ] = None,
) -> None:
    certificate_authorities.set(ca)


_JOB = "636a5cf015a1a4c7480317f114d5b06d69476b9d0d5a67dbe53e9b59de72769b"
_OPERATOR = "0x5050A4F4b3f9338C3472dcC01A87C76A144b3c9c"

app.command(
    epilog="Example: aos demo --model models/llama-2-7b-chat.Q4_0.gguf --prompt 'What is AI?'; in enclaves: aos demo --tee --private; with a local chain: aos demo --chain"
)(demo)
app.command(
    epilog="Example: aos up --data ./network --operators 3 --enclaves 2 --port 8000; with a local chain: aos up --chain"
)(up)
app.command(
    epilog="Example: aos submit 'What is AI?' --top-p 0.5 --wait; elsewhere: aos submit 'What is AI?' --dispatcher "
    "https://dispatcher.example --dispatcher-address 0x... --project shop --token-file token --model tiny.gguf; that nobody on the way "
    "reads: aos submit - --private --wait --policy policy.yaml"
)(submit)
app.command(epilog=f"Example: aos result {_JOB}; of a private job: add --reply-key FILE")(jobs.result)
app.command(epilog=f"Example: aos detail {_JOB} | jq -r .status")(jobs.detail)
app.command(epilog=f"Example: aos verify {_JOB} --json")(jobs.verify)
app.command(epilog=f"Example: aos cancel {_JOB}")(jobs.cancel)
app.command(
    epilog="Example: aos attest https://dispatcher.example --model tiny.gguf --policy policy.yaml; on the enclave's host: "
    "aos attest vsock://15:5005 --policy policy.yaml"
)(attest)
app.command(epilog="Example: aos rounds device-17 --limit 5")(disputes.rounds)
app.command(
    epilog=f"Example: aos challenge {_JOB} {_OPERATOR} --reason 'it reads oddly'; as an operator: add --keystore operator-key.json"
)(disputes.challenge)
app.command(
    epilog=f"Example: aos appeal {_JOB} --keystore operator-key.json --reason 'the worker ran the pinned file'"
)(disputes.appeal)
app.command(epilog=f"Example: aos standing {_OPERATOR} --json")(disputes.standing)
app.command(
    epilog="Example: aos chat; nobody but you and the operator reads it: aos chat --direct 'What is AI?'; elsewhere: aos chat --dispatcher "
    "https://dispatcher.example --dispatcher-address 0x... --token-file token --model tiny.gguf"
)(chat)
app.command(epilog="Example: aos provider --init, then fill in what it wrote, and aos provider")(provider)
app.command(
    epilog="Example: aos doctor; beside an operator: aos doctor -c config-operator.yaml --dispatcher http://..."
)(doctor)
app.command(epilog="Example: aos calibrate models/llama-2-7b-chat.Q4_0.gguf --answers 16 --tokens 64")(
    calibrate
)
app.add_typer(keys.app, name="keys")
app.add_typer(chain.app, name="chain")
