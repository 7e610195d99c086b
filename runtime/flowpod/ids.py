"""Random UUIDs, made from one system call for 256 of them: a request needs several."""

import os
import threading
from collections.abc import Iterator

_POOLED = 256
_BYTES = 16
_VARIANTS = "89ab"  # digits of the variant, which two random bits select (RFC 9562, 4.1)
_pools = threading.local()  # each thread has its own: a generator must not be advanced by two at once


def new_uuid() -> str:
    """Return a random UUID (version 4) from the system's generator, as text."""
    pool: Iterator[str] | None = getattr(_pools, "pool", None)
    if pool is None:
        pool = _pools.pool = _uuids()
    return next(pool)


def _uuids() -> Iterator[str]:
    while True:
        data = os.urandom(_POOLED * _BYTES)
        for start in range(0, len(data), _BYTES):
            digits = data[start : start + _BYTES].hex()
            variant = _VARIANTS[data[start + 8] % 4]
            yield f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


def _forget() -> None:
    _pools.__dict__.clear()


os.register_at_fork(after_in_child=_forget)  # a child must not make the ids of its parent
