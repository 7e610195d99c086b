"""What the protocols need of the settings."""

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ApiSettings:
    """Limits of requests, in bytes, and of silence on a stream, in seconds.

    `openwebui_sessions`: turns are stored under the chat's id that Open WebUI sends. `dashscope_app_ids` are the
    applications that DashScope's clients may name, all when there are none; their sessions end after
    `dashscope_session_s` seconds without a request.
    """

    max_body_bytes: int = 10 * 1024 * 1024
    heartbeat_s: float = 15.0
    openwebui_sessions: bool = False
    dashscope_app_ids: Collection[str] = ()
    dashscope_session_s: float = 3600.0
