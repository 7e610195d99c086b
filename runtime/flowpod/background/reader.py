"""Recorded runs as any instance tells of them: read, followed, cancelled and deleted."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from flowpod.background.event_json import from_json
from flowpod.background.journal import BATCH_S, Journal
from flowpod.engine.events import Event, RunTerminated
from flowpod.errors import InvalidRequest, NotFound
from flowpod.storage.availability import FAILURES, Availability
from flowpod.storage.database import Database
from flowpod.storage.runs.cancel_requests import CancelRequests
from flowpod.storage.runs.records import RecordedRun
from flowpod.storage.runs.store import RunStore
from flowpod.storage.sessions.reader import history_budget

_ANSWER_S = 3.0
_CLEAN_S = 600.0
_PAUSE_S = 0.5
_CANCEL_REQUEST_AGE = timedelta(minutes=1)


class RunReader:
    """The recorded runs of one service.

    `user` narrows a method to that user's runs; None means all. Raises NotFound for a run that is not there, or not the
    user's, and Unavailable when the database is away. Ended runs are kept for `days`.
    """

    def __init__(self, database: Database, availability: Availability, journal: Journal, days: float) -> None:
        self._store = RunStore(database)
        self._cancel_requests = CancelRequests(database)
        self._availability = availability
        self._journal = journal
        self._age = timedelta(days=days)
        self._closed = asyncio.Event()
        self._followers = 0
        self._nobody = asyncio.Event()

    async def close(self) -> None:
        """Let everybody go who follows a run, with what there is by now."""
        self._closed.set()
        if self._followers:
            self._nobody.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._nobody.wait(), _ANSWER_S)

    async def read(self, run_id: str, user: str | None) -> RecordedRun:
        """Return a run; one whose instance is gone has failed."""
        with self._availability.required():
            run = await self._store.find_run(run_id)
            if run is not None and await self._journal.fail_if_expired(run):
                run = await self._store.find_run(run_id)
        if run is None or (user is not None and run.user_id != user):
            raise run_not_found(run_id)
        return run

    async def events(self, run_id: str) -> list[Event]:
        """Return all events of a run so far."""
        found: list[Event] = []
        with self._availability.required():
            while page := await self._store.read_events(run_id, len(found)):
                found += [from_json(event) for _, event in page]
        return found

    async def follow(self, run_id: str, after: int = 0) -> AsyncGenerator[list[tuple[int, Event]], None]:
        """Yield (number, event) of a run's events behind number `after`, as they come, to the last one.

        While the database is away it waits; it ends early when the process does, or the run is deleted.
        """
        self._followers += 1
        try:
            async for page in self._pages(run_id, after):
                yield page
        finally:
            self._followers -= 1
            if not self._followers:
                self._nobody.set()

    async def _pages(self, run_id: str, after: int) -> AsyncGenerator[list[tuple[int, Event]], None]:
        last_look = False
        while True:
            try:
                page = [(number, from_json(event)) for number, event in await self._store.read_events(run_id, after)]
                goes_on = bool(page) or await self._goes_on(run_id)
            except FAILURES as error:
                self._availability.mark_unavailable(error)
                if await self._closed_after(BATCH_S):
                    return
                continue
            if page:
                after = page[-1][0]
                yield page
                if isinstance(page[-1][1], RunTerminated):
                    return
            elif last_look:
                return
            else:  # in both cases there may be a last event
                last_look = not goes_on or await self._closed_after(BATCH_S)

    async def wait_for_end(self, run_id: str) -> None:
        """Wait until a run has ended, some seconds at most."""
        # A statement is never cancelled here: the driver may leave its connection open then.
        until = time.monotonic() + _ANSWER_S
        while time.monotonic() < until:
            with self._availability.required():
                run = await self._store.find_run(run_id)
            if run is None or not run.active or await self._closed_after(BATCH_S):
                return

    async def request_cancel(self, run_id: str, user: str | None) -> RecordedRun | None:
        """Ask the instance that performs a run to cancel it; one that has ended stays as it is.

        Returns the run as it was before, None where it is not recorded. Of such a one only its instance knows, so it is
        NotFound when, after some seconds, none has said that it is its own.
        """
        with self._availability.required():
            recorded = await self._store.find_run(run_id) is not None
        if recorded:
            run = await self.read(run_id, user)
            with self._availability.required():
                await self._store.mark_cancel_requested(run_id)
            return run
        with self._availability.required():
            request_id = await self._cancel_requests.add_cancel_request(run_id, user)
            accepted = await self._is_accepted(request_id)
            await self._cancel_requests.delete_cancel_request(request_id)
        if not accepted:
            raise run_not_found(run_id)
        return None

    async def past(self, run_id: str, user: str | None, rounds: int, tokens: int | None = None) -> list[dict[str, Any]]:
        """Return the last `rounds` completed turns of a run's session up to its own, oldest first, for a reply to it.

        They have about `tokens` tokens at most. Raises NotFound or InvalidRequest for a run that cannot be replied to.
        """
        with self._availability.required():
            return list(await self._store.read_history(run_id, user, rounds, history_budget(tokens)))

    async def delete(self, run_id: str, user: str | None) -> None:
        """Delete a run that has ended, with its turn; raises InvalidRequest for one that has not."""
        if (await self.read(run_id, user)).active:
            raise InvalidRequest(f"the run {run_id} has not ended; cancel it first", code="run_not_ended")
        with self._availability.required():
            await self._store.delete_runs([run_id], turns=True)

    async def clean(self) -> float:
        """Delete some old runs; return how many seconds to wait before the next time. May raise SQLAlchemy's errors."""
        now = datetime.now(UTC)
        await self._cancel_requests.delete_old_cancel_requests(now - _CANCEL_REQUEST_AGE)
        return _PAUSE_S if await self._store.delete_old_runs(now - self._age) else _CLEAN_S

    async def _is_accepted(self, request_id: int) -> bool:
        until = time.monotonic() + _ANSWER_S
        while time.monotonic() < until:
            if await self._cancel_requests.is_cancel_request_accepted(request_id):
                return True
            if await self._closed_after(BATCH_S):
                break
        return False

    async def _goes_on(self, run_id: str) -> bool:
        run = await self._store.find_run(run_id)
        if run is None:
            return False
        await self._journal.fail_if_expired(run)  # unless its instance was late, and renews its lease just now
        return run.active

    async def _closed_after(self, pause_s: float) -> bool:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._closed.wait(), pause_s)
        return self._closed.is_set()


def run_not_found(run_id: str) -> NotFound:
    """Return the error for a run that is not there, or not the caller's."""
    return NotFound(f"there is no run {run_id!r}", param="run_id", code="run_not_found")
