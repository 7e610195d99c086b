"""Old sessions go, a few at a time, so that nobody waits behind it."""

from datetime import UTC, datetime, timedelta

from sqlalchemy import ColumnElement, and_, select

from flowpod.storage.database import Database, as_stored
from flowpod.storage.sessions.deletion import delete_sessions

_STEP = 100
_PAUSE_S = 0.5
_REST_S = 600.0


class Retention:
    """Deletes sessions that no client named after `single_turn_age`, and after `age`, if any, all.

    Of the first kind, those with a recorded run stay as long as that. They have one turn, but for those of responses.
    """

    def __init__(self, database: Database, single_turn_age: timedelta, age: timedelta | None) -> None:
        self._database = database
        self._single_turn_age = single_turn_age
        self._age = age

    async def step(self) -> float:
        """Delete some sessions; return how many seconds to wait before the next step. May raise SQLAlchemy's errors."""
        now = datetime.now(UTC)
        sessions, runs = self._database.schema.sessions, self._database.schema.runs
        deleted = await self._delete(
            and_(
                sessions.c.assigned,
                sessions.c.updated_at < as_stored(now - self._single_turn_age),
                ~select(runs.c.run_id).where(runs.c.session_id == sessions.c.session_id).exists(),
            )
        )
        if self._age is not None:
            deleted = max(deleted, await self._delete(sessions.c.updated_at < as_stored(now - self._age)))
        return _PAUSE_S if deleted == _STEP else _REST_S

    async def _delete(self, old: ColumnElement[bool]) -> int:
        sessions = self._database.schema.sessions
        ids = select(sessions.c.session_id).where(old).order_by(sessions.c.updated_at).limit(_STEP)
        async with self._database.reading() as connection:
            found = list((await connection.execute(ids)).scalars())
        if found:  # one that was used again meanwhile stays
            await delete_sessions(self._database, found, old)
        return len(found)
