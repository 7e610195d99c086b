"""Parses server-sent events from a model into their data (WHATWG HTML, 9.2.6)."""


class EventData:
    """Splits a byte stream into the data of its events; comments, ids and event names are ignored."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, data: bytes) -> list[bytes]:
        """Return the data of the events that `data` completes."""
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        found = []
        for line in lines:
            line = line.removesuffix(b"\r")
            if not line:
                if self._data:
                    found.append(b"\n".join(self._data))
                    self._data = []
            elif line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
        return found

    def end(self) -> list[bytes]:
        """Return the data of an event whose blank line never came."""
        return self.feed(b"\n\n")
