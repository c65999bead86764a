"""API tokens put together by hand, with the checksum reckoned another way than the code does."""

import zlib

BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def token(public: str = "4fzNqS0bX9aT", secret: str = "s" * 43) -> str:
    """A token of this id and secret, in good form, that nobody needs to have."""
    body = f"aos_{public}_{secret}"
    number = zlib.crc32(body.encode())
    return body + "".join(BASE62[number // 62**place % 62] for place in reversed(range(6)))
