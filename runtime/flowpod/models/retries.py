"""When a failed request to a model is sent again, and after how long: the rules of OpenAI's clients."""

import random
import time
from collections.abc import Mapping
from email.utils import mktime_tz, parsedate_tz

MAX_WAIT_S = 120.0
"""A server that asks for a longer wait is not asked again."""
_STATUSES = (408, 409, 429)
_FIRST_WAIT_S = 0.5
_MAX_DOUBLINGS = 4


def should_retry(status: int, headers: Mapping[str, str]) -> bool:
    """Return whether to send a request again that got an error status; the server may say so in `x-should-retry`."""
    asked = requested_wait(headers)
    if asked is not None and asked > MAX_WAIT_S:
        return False
    said = headers.get("x-should-retry")
    if said in ("true", "false"):
        return said == "true"
    return status in _STATUSES or status >= 500


def wait_before_retry(retry: int, headers: Mapping[str, str] | None = None) -> float:
    """Return the seconds to wait before the retry with this number, from 0: as the server asks, or else ever longer."""
    asked = None if headers is None else requested_wait(headers)
    if asked is not None and 0 < asked <= MAX_WAIT_S:
        return asked
    backoff = _FIRST_WAIT_S * float(2 ** min(retry, _MAX_DOUBLINGS))
    return backoff * random.uniform(0.75, 1)  # noqa: S311 - so that many clients do not come back at once


def requested_wait(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that a response asks to wait (`retry-after-ms`, `Retry-After`), or None."""
    for name, divisor in (("retry-after-ms", 1000), ("retry-after", 1)):
        try:
            return float(headers[name]) / divisor
        except (KeyError, ValueError):
            continue
    date = parsedate_tz(headers.get("retry-after", ""))
    if date is None:
        return None
    try:
        return mktime_tz(date) - time.time()
    except (OverflowError, ValueError):
        return None
