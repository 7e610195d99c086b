"""`make soak`: 100 conversations for a minute, while their database is killed and comes back.

On MySQL two services share the database. On SQLite, which has no server, somebody else locks the whole file.
Prints what the clients saw, and fails where a turn is lost, stored twice or out of order.
"""

import argparse
import asyncio
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.conversations import Talk, Talkers, missing_turns, write_talking_flow
from tests.support.mariadb import running_mariadb
from tests.support.serving import serving


@dataclass(frozen=True)
class Soak:
    """What came of it; `missing` are turns that were answered and are not stored, as they should be."""

    database: str
    seconds: float
    talk: Talk
    missing: list[str]

    def __str__(self) -> str:
        talk = self.talk
        problems = ", ".join(f"{count} x {what}" for what, count in sorted(talk.problems.items())) or "none"
        return (
            f"{self.database}: {talk.count} turns in {self.seconds:.0f} s, {len(talk.deferred)} of them deferred, "
            f"{len(self.missing)} lost; refused or broken: {problems}"
        )


async def soak_mysql(folder: Path, sessions: int, seconds: float) -> Soak:
    """Let two services share a server that is killed in the middle and started again."""
    with ExitStack() as stack:
        server = stack.enter_context(running_mariadb(folder / "mariadb"))
        history = server.new_database("soak")
        flow = write_talking_flow(folder / "flow")
        urls = []
        for name in ("one", "two"):
            (folder / name).mkdir()
            urls.append(stack.enter_context(serving(flow, folder / name, FLOWPOD_HISTORY=history)).url)

        def outage() -> None:
            server.stop()
            time.sleep(_outage_s(seconds))
            server.start()

        return await _soak("MySQL", urls, history, sessions, seconds, outage)


async def soak_sqlite(folder: Path, sessions: int, seconds: float) -> Soak:
    """Let a service find its file locked in the middle, for longer than its patience."""
    history = f"sqlite:///{folder / 'history.db'}"
    with serving(write_talking_flow(folder / "flow"), folder, FLOWPOD_HISTORY=history) as served:

        def outage() -> None:
            with _locked(folder / "history.db"):
                time.sleep(_outage_s(seconds))

        return await _soak("SQLite", [served.url], history, sessions, seconds, outage)


def _outage_s(seconds: float) -> float:
    return max(seconds / 10, 2.5)  # longer than the end of a run waits for its turn


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    database = sqlite3.connect(file, isolation_level=None, timeout=30)
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        database.execute("COMMIT")
        database.close()


async def _soak(
    database: str, urls: list[str], history: str, sessions: int, seconds: float, outage: Callable[[], None]
) -> Soak:
    talkers = Talkers(urls, sessions)
    begun = time.monotonic()
    talking = asyncio.create_task(talkers.run())
    await asyncio.sleep(seconds / 2)
    await asyncio.to_thread(outage)
    await asyncio.sleep(max(0.0, seconds - (time.monotonic() - begun)))
    talkers.stop()
    talk = await talking
    taken = time.monotonic() - begun
    deadline = time.monotonic() + 60
    while (missing := missing_turns(talk, history)) and time.monotonic() < deadline:
        await asyncio.sleep(0.5)  # deferred writes go on
    return Soak(database, taken, talk, missing)


def main() -> int:
    """Soak both databases; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=60)
    options = parser.parse_args()
    lost = 0
    for soak in (soak_mysql, soak_sqlite):
        with tempfile.TemporaryDirectory() as folder:
            result = asyncio.run(soak(Path(folder), options.sessions, options.seconds))
        print(result, flush=True)
        lost += len(result.missing)
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
