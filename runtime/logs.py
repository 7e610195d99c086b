"""Log lines, each with the id of the request that it belongs to."""

import logging
import sys
from contextvars import ContextVar
from typing import Literal

REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="-")
"""The id of the request that this task works for; a run's tasks inherit it."""

_NOISY_LOGGERS = ("uvicorn.error", "httpx2", "httpcore2", "openai", "asyncio", "sse_starlette", "aiosqlite")


def set_up_logging(level: Literal["debug", "info", "warning", "error"]) -> None:
    """Log to the standard error; libraries only from warnings on, unless everything is asked for."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_add_request_id)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s [%(request_id)s] %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler])
    if level != "debug":
        for name in _NOISY_LOGGERS:
            logging.getLogger(name).setLevel(logging.WARNING)


def _add_request_id(record: logging.LogRecord) -> bool:
    record.request_id = REQUEST_ID.get()
    return True
