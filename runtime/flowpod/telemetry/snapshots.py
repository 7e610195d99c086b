"""The metrics behind `/metrics`: those of this process, and snapshots of those of the other workers.

Each worker writes its readings to `metrics.db` in the data folder once a second, and the worker that is asked adds them
up. A worker that has not written for ten seconds is dead: its counters still count, its levels and gauges do not. The
file is emptied when the service starts, since counters are expected to start at zero.
"""

import logging
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import orjson

from flowpod.telemetry.families import Family, HistogramPoint
from flowpod.telemetry.instruments import Read

logger = logging.getLogger(__name__)

METRICS_FILE = "metrics.db"

_WRITE_S = 1.0
_DEAD_S = 10.0
_BUSY_MS = 2000


class Snapshots:
    """Reads this process's metrics, and after `share` those of the other workers too."""

    def __init__(self, folder: Path, instance: str, read: Read) -> None:
        self._read = read
        self._path = folder / METRICS_FILE
        self._instance = instance
        self._shared = False
        self._failing = False
        self._lock = threading.Lock()

    def clear(self) -> None:
        """Delete the snapshots of an earlier start."""
        with self._logging_failure():
            if self._path.is_file():
                with self._file() as connection:
                    connection.execute("DELETE FROM snapshot")

    def share(self) -> None:
        """Write a snapshot every second from now on, and include those of the other workers."""
        self._shared = True
        threading.Thread(target=self._keep_writing, name="flowpod-metrics", daemon=True).start()

    def families(self) -> list[Family]:
        """Return the sum of all workers' current metrics, sorted by name. Blocks: it reads a file.

        This process's readings are written first: a counter must not fall when the process dies after they were read.
        If the file cannot be used, they are the only ones returned.
        """
        with self._lock:
            families = self._read()
            if self._shared:
                with self._logging_failure():
                    self._store(families)
        if self._shared:
            found: list[tuple[dict[str, Family], bool]] = []
            with self._logging_failure():
                found = list(self._others())
            for others, alive in found:
                for name, family in others.items():
                    if not alive and family.kind in ("level", "gauge"):
                        continue
                    if name in families:
                        families[name].add(family)
                    else:
                        families[name] = family
        return [families[name] for name in sorted(families)]

    def _keep_writing(self) -> None:
        while True:
            with self._logging_failure():
                self.write()
            time.sleep(_WRITE_S)

    @contextmanager
    def _logging_failure(self) -> Iterator[None]:
        """Continue without the file when it cannot be used, and log that once."""
        try:
            yield
            self._failing = False
        except (sqlite3.Error, OSError, ValueError) as error:
            if not self._failing:
                logger.warning("metrics are not shared with the other workers in %s: %s", self._path, error)
            self._failing = True

    def write(self) -> None:
        """Write this process's current readings."""
        with self._lock:  # an older reading must not be written after a newer one
            self._store(self._read())

    def _store(self, families: Mapping[str, Family]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        body = orjson.dumps([_as_data(family) for family in families.values()])
        with self._file() as connection:
            connection.execute("REPLACE INTO snapshot VALUES (?, ?, ?)", [self._instance, time.monotonic(), body])

    def _others(self) -> Iterator[tuple[dict[str, Family], bool]]:
        with self._file() as connection:
            rows = connection.execute(
                "SELECT written_at, body FROM snapshot WHERE instance != ?", [self._instance]
            ).fetchall()
        for written_at, body in rows:
            families = [_from_data(item) for item in orjson.loads(body)]
            yield {family.name: family for family in families}, time.monotonic() - written_at < _DEAD_S

    @contextmanager
    def _file(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self._path, isolation_level=None)) as connection:
            connection.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
            connection.execute("PRAGMA synchronous = OFF")  # a power cut may lose snapshots
            connection.execute(
                "CREATE TABLE IF NOT EXISTS snapshot (instance TEXT PRIMARY KEY, written_at REAL, body BLOB)"
            )
            yield connection


def _as_data(family: Family) -> list[Any]:
    values = [[labels, value] for labels, value in family.values.items()]
    histograms = [[labels, h.bounds, h.counts, h.total] for labels, h in family.histograms.items()]
    return [family.name, family.kind, family.unit, family.description, values, histograms]


def _from_data(data: list[Any]) -> Family:
    *described, values, histograms = data
    family = Family(*described)
    family.values = {tuple(map(tuple, labels)): value for labels, value in values}
    family.histograms = {
        tuple(map(tuple, labels)): HistogramPoint(tuple(bounds), counts, total)
        for labels, bounds, counts, total in histograms
    }
    return family
