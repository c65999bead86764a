"""Keeps secrets out of the logs: by the name of a value, and by what a text looks like."""

import re
from collections.abc import Mapping
from functools import lru_cache

from structlog.typing import EventDict, WrappedLogger

MASK = "***"

_SECRET_WORD = re.compile(
    r"token|secret|password|passwd|passphrase|mnemonic|authorization|cookie", re.IGNORECASE
)
_KEY = re.compile(r"keys?$", re.IGNORECASE)
_PUBLIC_KEY = re.compile(r"(public|pub|verify)[_-]?keys?$", re.IGNORECASE)

_SUSPECT = re.compile(r"[@=\"']|aos_|bearer", re.IGNORECASE)
"""What a text must contain for any of the patterns below to match: most texts contain none of it."""

# Repetitions are bounded, so that a long text costs time in proportion to its length.
_IN_TEXT = [
    re.compile(r"(?P<keep>\b[a-z][a-z0-9+.-]{1,30}://[^\s:/?#@]{0,200}:)\S{1,1000}(?=@)", re.IGNORECASE),
    # API tokens: first with their public id, which stays; then those of before, all but their beginning.
    re.compile(r"(?P<keep>\baos_[0-9A-Za-z]{12}_)[0-9A-Za-z]{49}"),
    re.compile(r"(?P<keep>\baos_)[0-9A-Za-z_-]{43}"),
    re.compile(r"(?P<keep>\bbearer\s{1,5})[^\s'\",]+", re.IGNORECASE),
    # password=..., api_token='...', "signer_key": "..."
    re.compile(
        r"(?P<keep>(?:token|secret|password|passphrase|private_?key|signer_key|vrf_key|api_?key)"
        r"(?:=|[\"']\s{0,5}[:=]\s{0,5})[\"']?)[^\s\"'&,;)}\]]+",
        re.IGNORECASE,
    ),
]


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """A structlog processor that masks secrets, in nested values and exception texts too.

    Put it last before rendering.
    """
    return {name: _masked(name, value, inside_secret=False) for name, value in event.items()}


def redact_text(text: str) -> str:
    """Mask what a text itself shows to be secret: passwords in URLs, bearer tokens, `password=...`."""
    if _SUSPECT.search(text) is None:
        return text
    for pattern in _IN_TEXT:
        text = pattern.sub(rf"\g<keep>{MASK}", text)
    return text


@lru_cache(maxsize=1024)
def is_secret_name(name: str) -> bool:
    """Whether a value of this name is masked (`api_token`, `signer_key`; not `public_key`, `key_id`)."""
    return bool(_SECRET_WORD.search(name) or (_KEY.search(name) and not _PUBLIC_KEY.search(name)))


def _masked(name: str, value: object, *, inside_secret: bool) -> object:
    secret = inside_secret or is_secret_name(name)
    if isinstance(value, Mapping):
        return {key: _masked(str(key), item, inside_secret=secret) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_masked(name, item, inside_secret=secret) for item in value]
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | float):  # max_tokens and prompt_tokens are counts; a numeric password is not
        return MASK if secret and "token" not in name.lower() else value
    return MASK if secret else redact_text(str(value))
