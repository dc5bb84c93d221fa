"""MLLP frames: bytes in any pieces → messages, message → bytes. No input or output happens here.

A frame is VT, the message, FS CR ("minimal lower layer protocol"). Feed what the socket gave, as it came, and take the
messages that are complete. What stands outside a frame is noise and is dropped. A second VT inside a frame means that
the first frame was cut off: the message begins at the last one. The commit bytes of MLLP release 2 (06 and 15, framed
or bare) are no messages and are dropped too.
"""

from __future__ import annotations

from archsync.errors import InvalidInput, OutcomeUnknown

START = b"\x0b"
END = b"\x1c\r"
_COMMIT_BYTES = (b"\x06", b"\x15")
MAX_MESSAGE_BYTES = 1 << 20


def encode_frame(message: bytes) -> bytes:
    """Put a message into a frame.

    Raises:
        InvalidInput: ``hl7-invalid-message``: it is empty or holds bytes that delimit frames.
    """
    if not message or START in message or END[:1] in message:
        raise InvalidInput(
            "the message is empty or holds the bytes 0B or 1C, which delimit frames", code="hl7-invalid-message"
        )
    return START + message + END


class FrameDecoder:
    """Takes the messages out of a stream of bytes."""

    def __init__(self, max_message_bytes: int = MAX_MESSAGE_BYTES) -> None:
        self._max_message_bytes = max_message_bytes
        self._buffer = bytearray()
        self._searched = 0

    @property
    def has_partial_frame(self) -> bool:
        """True while a frame has begun and not ended."""
        return bool(self._buffer)

    def feed(self, data: bytes) -> list[bytes]:
        """Take bytes as they came and return the messages that they complete, in order.

        Raises:
            OutcomeUnknown: ``mllp-answer-too-long``: a frame grows beyond the limit. The stream is of no more use.
        """
        self._buffer += data
        messages = []
        while True:
            self._drop_noise()
            end = self._buffer.find(END, self._searched)
            if end < 0:
                break
            message = bytes(self._buffer[self._buffer.rfind(START, 0, end) + 1 : end])
            del self._buffer[: end + len(END)]
            self._searched = 0
            self._check_size(len(message))
            if message and message not in _COMMIT_BYTES:
                messages.append(message)
        self._searched = max(0, len(self._buffer) - 1)  # the last byte may be the first half of an end
        self._check_size(len(self._buffer) - 1)
        return messages

    def _drop_noise(self) -> None:
        start = self._buffer.find(START)
        if start:  # somewhere behind noise, or nowhere
            del self._buffer[: start if start > 0 else len(self._buffer)]
            self._searched = 0

    def _check_size(self, size_bytes: int) -> None:
        if size_bytes > self._max_message_bytes:
            raise OutcomeUnknown(
                f"the peer's answer is longer than {self._max_message_bytes} bytes", code="mllp-answer-too-long"
            )
