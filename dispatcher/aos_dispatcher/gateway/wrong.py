"""What is wrong with a body, from pydantic's words to an error that names the field as OpenAI writes it. No I/O."""

from typing import Final

from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from aos_dispatcher.gateway.errors import BadRequest
from aos_protocol.fields import describe

_OURS: Final = "aos"


def wrong(said: str, param: str | None = None, *, name: str | None = None) -> PydanticCustomError:
    """Return what a validator raises where the place of the value does not tell which field is meant, or what OpenAI calls the error.

    `param` is a path below that place, `name` the error's `code`.
    """
    return PydanticCustomError(_OURS, "{said}", {"said": said, "param": param, "name": name})


def bad_request(error: ValidationError) -> BadRequest:
    """Return the answer to a body that was refused: `param` is the path of the first wrong field, such as messages[0].content."""
    first = error.errors(include_url=False, include_input=False)[0]
    ours = first.get("ctx", {}) if first["type"] == _OURS else {}
    steps = (*first["loc"], *filter(None, (ours.get("param"),)))
    path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)
    return BadRequest(describe(error), param=path.removeprefix(".") or None, name=ours.get("name"))
