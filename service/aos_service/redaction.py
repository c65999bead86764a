"""Keeps secrets out of the logs: by the name of a value, and by what a text looks like."""

import re
from collections.abc import Mapping

from structlog.typing import EventDict, WrappedLogger

MASK = "***"

_SECRET_WORD = re.compile(
    r"token|secret|password|passwd|passphrase|mnemonic|authorization|cookie", re.IGNORECASE
)
_KEY = re.compile(r"(?<!public)(?<!public_)(?<!pub)(?<!verify_)(?:^|_|-|\b|(?<=[a-z]))keys?$", re.IGNORECASE)

_IN_TEXT = [
    # scheme://user:password@host
    (
        re.compile(r"(?P<keep>[a-z][a-z0-9+.-]*://[^\s:/?#@]*:)[^\s@]+(?=@)", re.IGNORECASE),
        rf"\g<keep>{MASK}",
    ),
    # Authorization: Bearer ...
    (re.compile(r"(?P<keep>\bbearer\s+)[^\s'\",]+", re.IGNORECASE), rf"\g<keep>{MASK}"),
    # password=..., "token": "...", 'signer_key': '...'
    (
        re.compile(
            r"(?P<keep>[\w-]*(?:token|secret|password|passphrase|private_?key|signer_key|vrf_key|api_?key)"
            r"(?:=|[\"']\s*[:=]\s*))(?P<quote>[\"']?)(?!\*)[^\s\"'&,;)}\]]+",
            re.IGNORECASE,
        ),
        rf"\g<keep>\g<quote>{MASK}",
    ),
]


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """A structlog processor: mask secret values, in nested ones and in exception text too. Put it last before rendering."""
    return {name: _masked(name, value) for name, value in event.items()}


def redact_text(text: str) -> str:
    """Mask what a text itself shows to be secret: passwords in URLs, bearer tokens, `password=...`."""
    for pattern, replacement in _IN_TEXT:
        text = pattern.sub(replacement, text)
    return text


def is_secret_name(name: str) -> bool:
    """Whether a value of this name is kept out of the logs (`api_token`, `signer_key`; not `public_key`, `key_id`)."""
    return bool(_SECRET_WORD.search(name) or _KEY.search(name))


def _masked(name: str, value: object) -> object:
    secret = is_secret_name(name)
    if isinstance(value, Mapping):
        return {key: _masked(f"{name}_token" if secret else str(key), item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_masked(name, item) for item in value]
    if value is None or isinstance(value, bool):
        return value
    if isinstance(
        value, int | float
    ):  # max_tokens and prompt_tokens are counts; a numeric password is no count
        return value if not secret or "token" in name.lower() else MASK
    if secret:
        return MASK
    return redact_text(value if isinstance(value, str) else str(value))
