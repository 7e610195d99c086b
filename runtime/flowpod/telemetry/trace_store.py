"""The local trace store: the traces of this service in one SQLite file, limited in size and age.

A row is a run: columns for searches, and all its spans as one compressed JSON text. Several processes may share the
file. Everything here blocks: call it in threads.
"""

import re
import sqlite3
import sys
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import orjson

from flowpod.jsonable import dumps
from flowpod.telemetry.content import Content
from flowpod.telemetry.model_attributes import Exchange, model_attributes

TRACES_FILE = "traces.db"

_VERSION = 2
_BUSY_MS = 5000
_WAL_BYTES = 4 * 1024 * 1024
_COMPRESSION = 1  # higher levels take twice the time to save a tenth of the size
_MIN_PREFIX = 6
_DELETED_PART = 20  # the oldest twentieth is deleted at a time, which leaves room for the next traces
_PAGE_BYTES = 8 * 1024 * 1024  # of the spans of several runs, as JSON
_STEPS = 100  # of SQLite between two looks whether to go on: about five rows
_SEARCHED = ("input", "output", "error")
_UNLIMITED = Content(max_chars=sys.maxsize)  # what is stored has been truncated
Span = dict[str, Any]
"""A span as JSON: span_id, parent_id, name, kind, start_ns, end_ns, status, message, attributes, events.

A stored one may have an `exchange` too, from which reading makes attributes.
"""


@dataclass(frozen=True, slots=True)
class Summary:
    """A run in a listing. Times are in nanoseconds, `started_ns` since 1970; an unknown id is ""."""

    trace_id: str
    run_id: str
    request_id: str
    session_id: str
    user_id: str
    name: str
    protocol: str
    started_ns: int
    duration_ns: int
    status: str
    error: str
    input: str
    output: str
    prompt_tokens: int
    completion_tokens: int


_COLUMNS = tuple(column.name for column in fields(Summary))
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS trace (
    id INTEGER PRIMARY KEY AUTOINCREMENT, {", ".join(_COLUMNS)}, body BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS trace_by_trace ON trace (trace_id);
CREATE INDEX IF NOT EXISTS trace_by_run ON trace (run_id);
CREATE INDEX IF NOT EXISTS trace_by_request ON trace (request_id);
CREATE INDEX IF NOT EXISTS trace_by_session ON trace (session_id);
CREATE INDEX IF NOT EXISTS trace_by_user ON trace (user_id);
CREATE INDEX IF NOT EXISTS trace_by_start ON trace (started_ns);
PRAGMA user_version = {_VERSION};
"""


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A stored run; listings have no `spans`, and neither has a run whose spans are too large (`spans_omitted`)."""

    id: int
    summary: Summary
    spans: Sequence[Span] = ()
    spans_omitted: bool = False


@dataclass(frozen=True, slots=True)
class FoundRuns:
    """A page of the runs that an id finds; `next_after` is the id of its last run if there are more, otherwise None."""

    runs: Sequence[StoredRun]
    next_after: int | None = None


Stopped = Callable[[], bool]
"""Returns whether a search is to stop: its time is up, or nobody waits for it."""


def _never() -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Filters:
    """The filters of a listing; durations in seconds. `text` is searched in the input, the output and the error."""

    session: str = ""
    user: str = ""
    status: str = ""
    min_duration_s: float | None = None
    max_duration_s: float | None = None
    text: str = ""

    def conditions(self) -> dict[str, list[Any]]:
        """Return the conditions as SQL, each with its parameters."""
        found: dict[str, list[Any]] = {}
        for column, wanted in (("session_id", self.session), ("user_id", self.user), ("status", self.status)):
            if wanted:
                found[f"{column} = ?"] = [wanted]
        if self.min_duration_s is not None:
            found["duration_ns >= ?"] = [int(self.min_duration_s * 1e9)]
        if self.max_duration_s is not None:
            found["duration_ns <= ?"] = [int(self.max_duration_s * 1e9)]
        if self.text:
            pattern = re.sub(r"([\\%_])", r"\\\1", self.text)
            either = " OR ".join(f"{column} LIKE ? ESCAPE '\\'" for column in _SEARCHED)
            found[f"({either})"] = [f"%{pattern}%"] * len(_SEARCHED)
        return found


class TraceStore:
    """The traces in one file. Reading a missing file finds nothing; writing creates it.

    Only `prune` needs the limits. Every method raises sqlite3.Error or OSError when the file cannot be used. Reading
    raises sqlite3.OperationalError soon after `stopped` returns true.
    """

    def __init__(self, path: Path, *, max_bytes: int = 0, max_age_s: float = 0.0) -> None:
        self.path = path
        self._max_bytes = max_bytes
        self._max_age_ns = int(max_age_s * 1e9)

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """Open a transaction, and create the file if it is missing."""
        with closing(self._connect(self.path)) as connection:
            if connection.execute("PRAGMA user_version").fetchone()[0] != _VERSION:
                connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
                connection.execute("PRAGMA journal_mode = WAL")
                connection.executescript(_SCHEMA)
            connection.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES}")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("BEGIN IMMEDIATE")
            with connection:
                yield connection

    @staticmethod
    def _connect(database: Path | str, *, uri: bool = False) -> sqlite3.Connection:
        connection = sqlite3.connect(database, isolation_level=None, uri=uri)
        connection.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
        return connection

    def create_folder(self) -> None:
        """Create the folder of the file."""
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def add(self, runs: Sequence[tuple[Summary, bytes]]) -> list[int]:
        """Store runs, whose spans are JSON, in one transaction; return their ids."""
        names, marks = ", ".join(_COLUMNS), ", ".join("?" * len(_COLUMNS))
        ids = []
        packed = [(summary, zlib.compress(spans, _COMPRESSION)) for summary, spans in runs]
        with self._writing() as connection:
            for summary, body in packed:
                values = [*astuple(summary), body]
                cursor = connection.execute(f"INSERT INTO trace ({names}, body) VALUES ({marks}, ?)", values)  # noqa: S608 - our own names
                ids.append(cursor.lastrowid or 0)
        return ids

    def extend(self, late: dict[int, list[Span]]) -> None:
        """Add spans that ended later to their stored runs, by id."""
        with self._writing() as connection:
            for number, spans in late.items():
                found = connection.execute("SELECT body FROM trace WHERE id = ?", [number]).fetchone()
                if found is not None:
                    body = zlib.compress(dumps([*_parse(_decompress(found[0])), *spans]), _COMPRESSION)
                    connection.execute("UPDATE trace SET body = ? WHERE id = ?", [body, number])

    def prune(self, now_ns: int) -> None:
        """Delete the oldest runs until the rest is within the limits."""
        with closing(self._connect(self.path)) as connection:
            connection.execute("DELETE FROM trace WHERE started_ns < ?", [now_ns - self._max_age_ns])
            while self._used_bytes(connection) > self._max_bytes:
                least, most = connection.execute("SELECT min(id), max(id) FROM trace").fetchone()
                if least is None:
                    break
                connection.execute("DELETE FROM trace WHERE id <= ?", [least + (most - least) // _DELETED_PART])
            connection.execute("PRAGMA incremental_vacuum").fetchall()

    def is_full(self) -> bool:
        """Return whether the runs take more space than the limit."""
        with closing(self._connect(self.path)) as connection:
            return self._used_bytes(connection) > self._max_bytes

    @staticmethod
    def _used_bytes(connection: sqlite3.Connection) -> int:
        pages, free, size = (
            connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * size)

    def newest(
        self, filters: Filters, limit: int, before: int | None = None, stopped: Stopped = _never
    ) -> list[StoredRun]:
        """Return the matching runs before the id `before`, newest first and without their spans."""
        conditions = filters.conditions()
        if before is not None:
            conditions["id < ?"] = [before]
        rows = self._rows(conditions, "DESC", limit, stopped, with_spans=False)
        return [StoredRun(row[0], Summary(*row[1:])) for row in rows]

    def find(
        self,
        name: str,
        *,
        user: str = "",
        after: int = 0,
        limit: int = 100,
        max_bytes: int = _PAGE_BYTES,
        stopped: Stopped = _never,
    ) -> FoundRuns:
        """Return runs of the trace `name` after the id `after`, or the newest run with this run, request or session id.

        The first six characters of a run's id are enough. `user` limits the search to the runs of one user. A page has
        at most `limit` runs, and at most `max_bytes` of spans.
        """
        conditions: dict[str, Sequence[Any]] = {"user_id = ?": [user]} if user else {}
        trace_id = f"0x{name.removeprefix('0x').lower()}"
        found = self._page(
            {**conditions, "trace_id = ?": [trace_id], "id > ?": [after]}, "ASC", limit, max_bytes, stopped
        )
        if found.runs or after:
            return found
        names = {f"{column} = ?": [name] for column in ("run_id", "request_id", "session_id") if name}
        if len(name) >= _MIN_PREFIX:
            names["run_id BETWEEN ? AND ?"] = [name, f"{name}\U0010ffff"]
        for condition, values in names.items():
            found = self._page({**conditions, condition: values}, "DESC", 1, max_bytes, stopped)
            if found.runs:
                return FoundRuns(found.runs)
        return FoundRuns([])

    def _page(
        self, conditions: Mapping[str, Sequence[Any]], order: str, limit: int, max_bytes: int, stopped: Stopped
    ) -> FoundRuns:
        runs: list[StoredRun] = []
        size = 0
        with closing(self._rows(conditions, order, limit + 1, stopped, with_spans=True)) as rows:
            for number, *columns, body in rows:
                spans = _decompress(body, max_bytes)
                size += len(spans)
                if runs and (len(runs) == limit or size > max_bytes):
                    return FoundRuns(runs, runs[-1].id)
                runs.append(StoredRun(number, Summary(*columns), _parse(spans), spans_omitted=not spans))
        return FoundRuns(runs)

    def _rows(
        self, conditions: Mapping[str, Sequence[Any]], order: str, limit: int, stopped: Stopped, *, with_spans: bool
    ) -> Generator[tuple[Any, ...], None, None]:
        if not self.path.is_file():
            return
        where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
        values = [value for several in conditions.values() for value in several]
        columns = ", ".join(["id", *_COLUMNS, *(["body"] if with_spans else [])])
        text = f"SELECT {columns} FROM trace {where} ORDER BY id {order} LIMIT ?"  # noqa: S608 - our own names
        with closing(self._connect(f"{self.path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            if connection.execute("PRAGMA user_version").fetchone()[0]:  # otherwise another process is creating it
                connection.set_progress_handler(stopped, _STEPS)
                yield from connection.execute(text, [*values, limit])


def _decompress(body: bytes, max_bytes: int = 0) -> bytes:
    """Return the JSON of spans; b"" if it has more than `max_bytes`, where 0 is no limit."""
    decompressor = zlib.decompressobj()
    text = decompressor.decompress(body, max_bytes)
    return text if decompressor.eof else b""


def _parse(text: bytes) -> list[Span]:
    spans: list[Span] = orjson.loads(text or b"[]")
    for span in spans:
        if exchange := span.pop("exchange", None):
            derived = model_attributes(Exchange(*exchange), _UNLIMITED)
            span["attributes"].update(orjson.loads(dumps(derived)))  # lists for tuples, as in other attributes
    return spans
