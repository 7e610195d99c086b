"""How a run is recorded, as a protocol asks for it."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flowpod.storage.runs.continuations import Continuation


@dataclass(frozen=True, slots=True)
class Recording:
    """A request to store a run and its events; either an AttachedRecording or a BackgroundRecording.

    `details` are what the protocol needs to show the run. `continuation` is what the run continues, if anything.
    """

    details: Mapping[str, Any]
    continuation: Continuation | None = None


@dataclass(frozen=True, slots=True)
class AttachedRecording(Recording):
    """Records a run that has a reader in this process: when the reader leaves, the run is cancelled."""


@dataclass(frozen=True, slots=True)
class BackgroundRecording(Recording):
    """Records a run that has no reader and waits in the queue.

    A user's requests with one `idempotency_key` share one run; they must have the same `content`.
    """

    idempotency_key: str | None = None
    content: bytes = b""

    @property
    def fingerprint(self) -> str:
        """The digest of the content."""
        return _digest(self.content)

    def key_digest(self, user_id: str | None) -> str | None:
        """Return the digest of the user and the idempotency key, None without a key."""
        if self.idempotency_key is None:
            return None
        return _digest(f"{user_id or ''}\0{self.idempotency_key}".encode())


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
