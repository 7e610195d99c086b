"""The settings that the protocols need."""

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ApiSettings:
    """Limits and options of the protocols.

    `max_body_bytes` limits a request body. A stream that is silent for `heartbeat_s` seconds gets a comment.
    `openwebui_sessions`: store turns under the chat id that Open WebUI sends. `dashscope_app_ids`: the application ids
    that DashScope clients may use; empty allows any. `dashscope_session_s`: seconds without a request after which a
    DashScope session expires.
    """

    max_body_bytes: int = 10 * 1024 * 1024
    heartbeat_s: float = 15.0
    openwebui_sessions: bool = False
    dashscope_app_ids: Collection[str] = ()
    dashscope_session_s: float = 3600.0
