"""Deletes old sessions, a few at a time, so that other transactions do not wait."""

from datetime import UTC, datetime, timedelta

from sqlalchemy import ColumnElement, and_, select

from flowpod.storage.database import Database, as_stored
from flowpod.storage.sessions.deletion import delete_sessions

_BATCH = 100
_PAUSE_S = 0.5
_INTERVAL_S = 600.0


class Retention:
    """Deletes sessions that have not been used for `age`; None keeps them.

    A session under an assigned id that no client has named expires after `single_turn_age`, unless it has a recorded
    run. Such a session has one turn, except those that continue responses.
    """

    def __init__(self, database: Database, single_turn_age: timedelta, age: timedelta | None) -> None:
        self._database = database
        self._single_turn_age = single_turn_age
        self._age = age

    async def delete_expired(self) -> float:
        """Delete some expired sessions; return how many seconds to wait before the next call.

        May raise SQLAlchemy's errors.
        """
        now = datetime.now(UTC)
        sessions, runs = self._database.schema.sessions, self._database.schema.runs
        count = await self._delete_some(
            and_(
                sessions.c.assigned,
                sessions.c.updated_at < as_stored(now - self._single_turn_age),
                ~select(runs.c.run_id).where(runs.c.session_id == sessions.c.session_id).exists(),
            )
        )
        if self._age is not None:
            count = max(count, await self._delete_some(sessions.c.updated_at < as_stored(now - self._age)))
        return _PAUSE_S if count == _BATCH else _INTERVAL_S

    async def _delete_some(self, expired: ColumnElement[bool]) -> int:
        sessions = self._database.schema.sessions
        query = select(sessions.c.session_id).where(expired).order_by(sessions.c.updated_at).limit(_BATCH)
        ids = [session_id for (session_id,) in await self._database.fetch_rows(query)]
        if ids:  # a session that is used before it is deleted stays
            await delete_sessions(self._database, ids, expired)
        return len(ids)
