"""Recorded runs of all instances: read, followed, cancelled and deleted."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from flowpod.background.event_json import event_from_json
from flowpod.background.journal import BATCH_S
from flowpod.engine.events import Event, RunTerminated
from flowpod.errors import InvalidRequest, NotFound
from flowpod.storage.availability import FAILURES, Availability, is_set_within
from flowpod.storage.database import Database
from flowpod.storage.runs.cancel_requests import CancelRequests
from flowpod.storage.runs.records import RecordedRun
from flowpod.storage.runs.store import RunStore
from flowpod.storage.sessions.reader import history_budget

_WAIT_S = 3.0
_CLEANUP_S = 600.0
_CLEANUP_PAUSE_S = 0.5
_CANCEL_REQUEST_AGE = timedelta(minutes=1)


class RunReader:
    """Reads the recorded runs of one service.

    `user_id` restricts a method to that user's runs; None means all runs. Methods raise NotFound for a run that does
    not exist or belongs to another user, and Unavailable when the database is unavailable. Ended runs expire after
    `days`.
    """

    def __init__(self, database: Database, availability: Availability, days: float) -> None:
        self._store = RunStore(database)
        self._cancel_requests = CancelRequests(database)
        self._availability = availability
        self._max_age = timedelta(days=days)
        self._closing = asyncio.Event()
        self._followers = 0
        self._no_followers = asyncio.Event()

    async def close(self) -> None:
        """Disconnect all followers after the events that are stored by now."""
        self._closing.set()
        if self._followers:
            self._no_followers.clear()
            await is_set_within(self._no_followers, _WAIT_S)

    async def read_run(self, run_id: str, user_id: str | None) -> RecordedRun:
        """Return a run."""
        with self._availability.required():
            run = await self._store.find_run(run_id)
        if run is None or (user_id is not None and run.user_id != user_id):
            raise run_not_found(run_id)
        return run

    async def read_events(self, run_id: str) -> list[Event]:
        """Return all events of a run so far."""
        found: list[Event] = []
        with self._availability.required():
            while page := await self._store.read_events(run_id, len(found)):
                found += [event_from_json(event) for _, event in page]
        return found

    async def follow(self, run_id: str, after: int = 0) -> AsyncGenerator[list[tuple[int, Event]], None]:
        """Yield (number, event) of a run's events after number `after`, as they come, to the last one.

        Waits while the database is unavailable; ends early when the process ends or the run is deleted.
        """
        self._followers += 1
        try:
            async for page in self._pages(run_id, after):
                yield page
        finally:
            self._followers -= 1
            if not self._followers:
                self._no_followers.set()

    async def _pages(self, run_id: str, after: int) -> AsyncGenerator[list[tuple[int, Event]], None]:
        is_last_try = False
        while True:
            try:
                page = [
                    (number, event_from_json(event)) for number, event in await self._store.read_events(run_id, after)
                ]
                is_active = bool(page) or await self._is_active(run_id)
            except FAILURES as error:
                self._availability.mark_unavailable(error)
                if await is_set_within(self._closing, BATCH_S):
                    return
                continue
            if page:
                after = page[-1][0]
                yield page
                if isinstance(page[-1][1], RunTerminated):
                    return
            elif is_last_try:
                return
            else:  # the last events may have been stored since, in both cases
                is_last_try = not is_active or await is_set_within(self._closing, BATCH_S)

    async def wait_for_end(self, run_id: str) -> None:
        """Wait until a run has ended, for a few seconds at most."""

        async def has_ended() -> bool:
            with self._availability.required():
                run = await self._store.find_run(run_id)
            return run is None or not run.active

        await self._poll(has_ended)

    async def request_cancel(self, run_id: str, user_id: str | None) -> RecordedRun | None:
        """Ask the instance that executes a run to cancel it; a run that has ended stays as it is.

        Returns the run as it was before, or None for a run that is not recorded. Only the instance that executes it
        knows such a run: NotFound is raised if no instance accepts the request within a few seconds.
        """
        with self._availability.required():
            is_recorded = await self._store.find_run(run_id) is not None
        if is_recorded:
            run = await self.read_run(run_id, user_id)
            with self._availability.required():
                await self._store.mark_cancel_requested(run_id)
            return run
        with self._availability.required():
            number = await self._cancel_requests.add_cancel_request(run_id, user_id)
            is_accepted = await self._poll(lambda: self._cancel_requests.is_cancel_request_accepted(number))
            await self._cancel_requests.delete_cancel_request(number)
        if not is_accepted:
            raise run_not_found(run_id)
        return None

    async def read_history(
        self, run_id: str, user_id: str | None, rounds: int, tokens: int | None = None
    ) -> list[dict[str, Any]]:
        """Return the last `rounds` completed turns of a run's session up to the run's own turn, oldest first.

        They have about `tokens` tokens at most. Raises NotFound or InvalidRequest for a run that cannot be continued.
        """
        with self._availability.required():
            return list(await self._store.read_history(run_id, user_id, rounds, history_budget(tokens)))

    async def delete_run(self, run_id: str, user_id: str | None) -> None:
        """Delete a run that has ended, with its turn; raises InvalidRequest for one that has not."""
        if (await self.read_run(run_id, user_id)).active:
            raise InvalidRequest(f"the run {run_id} has not ended; cancel it first", code="run_not_ended")
        with self._availability.required():
            await self._store.delete_runs([run_id], turns=True)

    async def delete_expired(self) -> float:
        """Delete some expired runs; return the seconds to wait before the next call. May raise SQLAlchemy's errors."""
        now = datetime.now(UTC)
        await self._cancel_requests.delete_old_cancel_requests(now - _CANCEL_REQUEST_AGE)
        return _CLEANUP_PAUSE_S if await self._store.delete_old_runs(now - self._max_age) else _CLEANUP_S

    async def _poll(self, is_done: Callable[[], Awaitable[bool]]) -> bool:
        """Wait until a query returns true, for a few seconds at most; return whether it did."""
        # The deadline never cancels a statement: the driver may then leave its connection open.
        deadline = time.monotonic() + _WAIT_S
        while time.monotonic() < deadline:
            if await is_done():
                return True
            if await is_set_within(self._closing, BATCH_S):
                break
        return False

    async def _is_active(self, run_id: str) -> bool:
        run = await self._store.find_run(run_id)
        return run is not None and run.active


def run_not_found(run_id: str) -> NotFound:
    """Return the error for a run that does not exist or belongs to another user."""
    return NotFound(f"there is no run {run_id!r}", param="run_id", code="run_not_found")
