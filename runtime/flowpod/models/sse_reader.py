"""Parses server-sent events from a model into their data (WHATWG HTML, 9.2.6)."""


class EventData:
    """Splits a byte stream into the data of its events; comments, ids and event names are ignored.

    The time is linear in the stream's length, however the stream is cut.
    """

    def __init__(self) -> None:
        self._line: list[bytes] = []
        self._line_size = 0
        self._data: list[bytes] = []
        self._data_size = 0

    @property
    def held(self) -> int:
        """The number of bytes that are kept of the event that is not complete yet."""
        return self._line_size + self._data_size

    def feed(self, data: bytes) -> list[bytes]:
        """Return the data of the events that `data` completes."""
        if self._line:
            if b"\n" not in data:
                self._line.append(data)
                self._line_size += len(data)
                return []
            data = b"".join((*self._line, data))
        lines = data.split(b"\n")
        rest = lines.pop()
        self._line, self._line_size = [rest] if rest else [], len(rest)
        found = []
        for line in lines:
            line = line.removesuffix(b"\r")
            if line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
                self._data_size += len(line)
            elif not line and self._data:
                found.append(b"\n".join(self._data))
                self._data, self._data_size = [], 0
        return found

    def end(self) -> list[bytes]:
        """Return the data of an event whose blank line never came."""
        return self.feed(b"\n\n")
