"""What the protocols need of the settings."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ApiSettings:
    """Limits of requests, in bytes, and of silence on a stream, in seconds.

    `openwebui_sessions`: turns are stored under the chat's id that Open WebUI sends.
    """

    max_body_bytes: int = 10 * 1024 * 1024
    heartbeat_s: float = 15.0
    openwebui_sessions: bool = False
