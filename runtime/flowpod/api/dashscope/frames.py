"""DashScope's frames, byte for byte: its clients read lines, so that there is no space after a colon."""

from typing import Any

from flowpod.api.dashscope.errors import dashscope_error, status_of
from flowpod.errors import ErrorInfo
from flowpod.jsonable import dumps

_STEPS = 256


class Growing:
    """A text that is told again from its beginning as it grows.

    The longer it is, the more must be new before it is due: what goes out stays in proportion to the text's length.
    """

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._length = 0
        self._told = 0

    def add(self, piece: str) -> None:
        """Take in what is new."""
        self._pieces.append(piece)
        self._length += len(piece)

    @property
    def is_due(self) -> bool:
        """Whether enough is new."""
        return (self._length - self._told) * _STEPS >= self._length > 0

    def whole(self) -> str:
        """Return all of it, which is told by that."""
        self._pieces = ["".join(self._pieces)]
        self._told = self._length
        return self._pieces[0]


class Frames:
    """Writes the frames of one stream, numbered from 1, each with the id of its request."""

    def __init__(self, request_id: str) -> None:
        self._request_id = request_id
        self._count = 0

    def result(self, output: dict[str, Any], usage: dict[str, Any]) -> bytes:
        """Return a frame with a piece of the answer."""
        content = dumps({"output": output, "usage": usage, "request_id": self._request_id})
        return self._frame(b"event:result\n:HTTP_STATUS/200\n", content)

    def error(self, error: ErrorInfo) -> bytes:
        """Return the frame that ends a stream which failed.

        The classic client takes the status from a line of its own, and passes over the one that is a comment.
        """
        status = status_of(error)
        lines = f"event:error\n:HTTP_STATUS/{status}\nstatus:{status}\n".encode()
        return self._frame(lines, dumps(dashscope_error(error, self._request_id)))

    def _frame(self, lines: bytes, content: bytes) -> bytes:
        self._count += 1
        return b"id:%d\n%bdata:%b\n\n" % (self._count, lines, content)
