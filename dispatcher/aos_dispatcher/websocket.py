"""uvicorn's WebSocket, with what a hostile peer could make it hold bounded, too.

Found by `tests/fuzz/frames.py`; uvicorn 0.54 keeps every fragment of a message as an object of its own, empty ones without limit, answers pings
into memory for a peer that reads nothing, and logs a traceback for a text that is not UTF-8.
"""

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame

_MOST_UNREAD = 1 << 20
"""Bytes that may wait for a peer while it sends pings."""


class OperatorProtocol(WebSocketsSansIOProtocol):
    """Messages arrive as bytes, text or not: `open_frame` decodes them strictly, and refuses what is not UTF-8 with a reason."""

    _begun = bytearray()

    def handle_text(self, event: Frame) -> None:
        """Take a message's first frame."""
        self.handle_bytes(event)

    def handle_bytes(self, event: Frame) -> None:
        """Take a message's first frame; of one that goes on, the beginning."""
        if event.fin:
            super().handle_bytes(event)
        else:
            self._begun = bytearray(event.data)

    def handle_cont(self, event: Frame) -> None:
        """Add to the message that goes on; the parser sees to how long it may become."""
        self._begun += event.data
        if event.fin:
            self.frames = [bytes(self._begun)]
            self._begun = bytearray()
            self.send_receive_event_to_app()

    def handle_ping(self) -> None:
        """Answer, unless the peer does not read what it is sent: that ends the connection."""
        if self.transport.get_write_buffer_size() > _MOST_UNREAD:
            self.transport.abort()
        else:
            super().handle_ping()
