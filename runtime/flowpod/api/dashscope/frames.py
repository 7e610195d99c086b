"""DashScope's event stream frames. Its clients parse lines by prefix, so there is no space after a colon."""

from typing import Any

from flowpod.api.dashscope.errors import dashscope_error, status_of
from flowpod.errors import ErrorInfo
from flowpod.jsonable import dumps

_STEPS = 256


class CumulativeText:
    """The text of a stream whose frames each repeat all of the text so far.

    The longer the text, the more of it must be new before the next frame is due, so the bytes sent stay proportional
    to its length.
    """

    def __init__(self) -> None:
        self._chunks: list[str] = []
        self._length = 0
        self._sent = 0

    def add_chunk(self, chunk: str) -> None:
        """Append a chunk."""
        self._chunks.append(chunk)
        self._length += len(chunk)

    @property
    def is_due(self) -> bool:
        """Whether enough text is new for another frame."""
        return (self._length - self._sent) * _STEPS >= self._length > 0

    def send(self) -> str:
        """Return the whole text and count it as sent."""
        self._chunks = ["".join(self._chunks)]
        self._sent = self._length
        return self._chunks[0]


class FrameWriter:
    """Writes the frames of one stream, numbered from 1."""

    def __init__(self, request_id: str) -> None:
        self._request_id = request_id
        self._count = 0

    def result(self, output: dict[str, Any], usage: dict[str, Any]) -> bytes:
        """Return a result frame."""
        content = dumps({"output": output, "usage": usage, "request_id": self._request_id})
        return self._numbered(b"event:result\n:HTTP_STATUS/200\n", content)

    def error(self, error: ErrorInfo) -> bytes:
        """Return the last frame of a run that failed.

        The classic client reads the status from its own `status:` line and ignores the one in the comment.
        """
        status = status_of(error)
        lines = f"event:error\n:HTTP_STATUS/{status}\nstatus:{status}\n".encode()
        return self._numbered(lines, dumps(dashscope_error(error, self._request_id)))

    def _numbered(self, lines: bytes, content: bytes) -> bytes:
        self._count += 1
        return b"id:%d\n%bdata:%b\n\n" % (self._count, lines, content)
