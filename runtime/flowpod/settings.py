"""The settings: one class, read from the environment once, when the command starts."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from flowpod.errors import InvalidRequest

PREFIX = "FLOWPOD_"
_CENTURY_DAYS = 36_500
_ORIGIN = re.compile(r"\*|null|[a-z][a-z0-9+.-]*://[^/\s]+")


Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]
ErrorDetail = Literal["plain", "full"]
Days = Annotated[float, Field(gt=0, le=_CENTURY_DAYS)]


class Settings(BaseSettings):
    """The settings of a service; each field is read from the environment variable `FLOWPOD_<NAME>`."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore", allow_inf_nan=False)

    tokens: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        repr=False,
        description="The bearer tokens that clients may use, separated by commas. List the old and the new token to "
        "rotate them.",
    )
    tokens_file: Path | None = Field(
        None,
        description="A file with one token per line. Its tokens are valid in addition to those in `FLOWPOD_TOKENS`.",
    )
    auth: Literal["on", "off"] = Field(
        "on",
        description="`off` turns authentication off, on any address and for any `Host`. Use it only behind a gateway "
        "that authenticates clients.",
    )
    connections: Path | None = Field(
        None,
        description="A file or folder of connections. They override the flow's own, so you can run a flow unchanged "
        "with your own connections.",
    )
    service_name: str | None = Field(
        None,
        pattern=r"^[a-z][a-z0-9_]{0,39}$",
        description="The service name, used in table names, traces and `/v1/models`. Default: the name of the flow's "
        "folder.",
    )
    data_dir: Path | None = Field(
        None, description="The folder for data files. Default: `.flowpod/<service>` in the current folder."
    )
    history: str | None = Field(
        None,
        description="The chat history database: `sqlite:///path/file.db`, `mysql://user:password@host/database`, or "
        "`off`. Default: `chat_history.db` in the data folder. A MySQL URL accepts `?ssl_mode=`, `ssl_ca=`, "
        "`ssl_cert=` and `ssl_key=`; the last three are file paths.",
    )
    history_password: SecretStr | None = Field(
        None, description="The password of the chat history database. It overrides a password in `FLOWPOD_HISTORY`."
    )
    history_password_file: Path | None = Field(
        None, description="A file that contains this password, such as a mounted secret."
    )
    history_days: Days | None = Field(
        None, description="Days of inactivity after which a session is deleted. Default: sessions are kept forever."
    )
    openwebui_sessions: Literal["on", "off"] = Field(
        "off",
        description="`on` stores the chats of Open WebUI as sessions, identified by its `X-OpenWebUI-Chat-Id` header.",
    )
    dashscope_app_ids: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="The application ids that DashScope clients may call, separated by commas. Default: any id."
    )
    dashscope_session_s: Seconds = Field(
        3600, description="Seconds of inactivity after which a DashScope session expires."
    )
    history_write_timeout_s: Seconds = Field(
        2,
        description="Seconds that the end of a run waits for its turn to be stored. After that the turn is stored "
        "later.",
    )
    single_turn_days: Days = Field(
        1, description="Days after which a session is deleted if it has one turn and its id was assigned by the server."
    )
    max_runs: Count = Field(
        1000, description="The maximum number of concurrent runs per process. Further requests get status 429."
    )
    run_timeout_s: Seconds = Field(
        570,
        description="The time limit of a run, in seconds. Keep it under 600: OpenAI clients time out then and send "
        "the request again.",
    )
    max_background_runs: Count = Field(
        100,
        description="The maximum number of concurrent background runs per process, not counted in `FLOWPOD_MAX_RUNS`. "
        "Further ones are queued.",
    )
    background_queue: int = Field(
        1000,
        ge=0,
        description="The maximum number of queued background runs per process. Further requests get status 429.",
    )
    run_days: Days = Field(
        30, description="Days after which a finished background run or a stored response is deleted."
    )
    lease_s: float = Field(
        30,
        gt=0,
        description="Seconds without a sign of life after which other instances mark an instance's background runs as "
        "failed. Every instance needs the same value.",
    )
    threads: Count = Field(
        64,
        description="The number of threads per process for synchronous Python nodes, and again for templates with "
        "loops.",
    )
    threads_exit_s: Seconds = Field(
        60,
        description="Seconds after which the process ends, with status 1, if none of its threads can be used because "
        "their code does not return. Until then `/readyz` returns 503. Whatever supervises the process should start it "
        "again.",
    )
    max_body_bytes: Count = Field(
        10 * 1024 * 1024, description="The maximum size of a request body, in bytes. Larger requests get status 413."
    )
    max_connections: Count = Field(
        10_000,
        description="The maximum number of open connections per process, but not more than half of the files that it "
        "may open (`ulimit -n`). Further ones get status 503.",
    )
    header_timeout_s: Seconds = Field(
        10, description="Seconds within which a client must send the headers of a request. Then it gets status 408."
    )
    body_timeout_s: Seconds = Field(
        60, description="Seconds for which the body of a request may make no progress. Then the client gets status 408."
    )
    write_timeout_s: Seconds = Field(
        30,
        description="Seconds for which a client may read nothing of a response that waits to be sent. Then it is "
        "disconnected, which cancels its run.",
    )
    max_output_chars: Count = Field(
        8 * 1024 * 1024,
        description=(
            "The maximum length of what a node streams, including reasoning, or returns, and of a text that an output "
            "holds back, in characters. A node that exceeds it fails."
        ),
    )
    error_detail: ErrorDetail = Field(
        "plain",
        description="What callers see of the error of a node: `plain` is the node, a code and a reason; `full` adds "
        "the addresses, files and lines that the log and the trace have. Use `full` for development only.",
    )
    file_mounts: Annotated[tuple[Path, ...], NoDecode] = Field(
        (),
        description="The folders from which requests may name files by path, as absolute paths separated by commas. "
        "Default: none.",
    )
    allow_private_urls: Literal["on", "off"] = Field(
        "off", description="`on` lets requests name files and images at URLs whose address is not public."
    )
    docs: Literal["on", "off"] = Field(
        "on", description="`off` disables `/openapi.json` and `/docs`, which are otherwise public."
    )
    heartbeat_s: Seconds = Field(
        15,
        description="Seconds of silence after which a stream sends a comment, so that proxies keep the connection "
        "open.",
    )
    tracing: Literal["on", "off"] = Field("on", description="`off` disables tracing and leaves `otel_trace_id` empty.")
    trace_content: Literal["on", "off"] = Field(
        "on", description="`off` keeps inputs, outputs and messages out of traces."
    )
    trace_content_max_chars: Count = Field(
        32768, description="The maximum length of a text in a span, in characters. Longer texts are truncated."
    )
    trace_store: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Whether traces are stored in `traces.db` in the data folder, for `flowpod traces` and `/traces`. "
        "`auto` stores them unless traces are exported or the history is in MySQL: with several instances, a request "
        "for a trace could reach an instance that does not have it.",
    )
    trace_store_max_mb: Count = Field(
        200, description="The maximum size of `traces.db`, in MiB. The oldest traces are deleted."
    )
    trace_store_days: float = Field(7, gt=0, description="Days after which a stored trace is deleted.")
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="The origins from which browsers may call this service, separated by commas, such as "
        "`https://chat.example.com`. `*` allows every origin. Default: none.",
    )
    root_path: str = Field("", description="The path prefix under which a proxy exposes this service.")
    drain_delay_s: float = Field(
        5,
        ge=0,
        description="Seconds after SIGTERM during which new requests are still accepted while `/readyz` returns 503.",
    )
    grace_s: float = Field(
        30, ge=0, description="Seconds that running requests then have to finish before they are cancelled."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="The minimum level of log messages."
    )
    log_format: Literal["auto", "text", "json"] = Field(
        "auto",
        description="The log format: `text` for people, `json` for machines. `auto` is `text` on a terminal and "
        "`json` elsewhere.",
    )

    @field_validator("file_mounts")
    @classmethod
    def _check_absolute(cls, value: tuple[Path, ...]) -> tuple[Path, ...]:
        if relative := [str(path) for path in value if not path.is_absolute()]:
            raise ValueError(f"folders must be absolute paths; these are relative: {', '.join(relative)}")
        return value

    @field_validator("cors_origins")
    @classmethod
    def _check_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if wrong := [origin for origin in value if not _ORIGIN.fullmatch(origin)]:
            raise ValueError(
                f"an origin is a scheme and a host, with an optional port and no path; invalid: {', '.join(wrong)}"
            )
        return value

    @field_validator("tokens", "file_mounts", "cors_origins", "dashscope_app_ids", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    def valid_tokens(self) -> tuple[str, ...]:
        """Return the tokens from `tokens` and `tokens_file`.

        Raises InvalidRequest if the file cannot be read or contains no token.
        """
        if self.tokens_file is None:
            return self.tokens
        lines = _read_text(self.tokens_file, "TOKENS_FILE").splitlines()
        tokens = tuple(line.strip() for line in lines if line.strip())
        if not tokens:
            raise InvalidRequest(f"{PREFIX}TOKENS_FILE: {self.tokens_file} contains no token")
        return self.tokens + tokens

    def valid_history_password(self) -> str | None:
        """Return the password of the chat history database, or None if neither password setting is used.

        Raises InvalidRequest if the password file cannot be read.
        """
        if self.history_password_file is not None:
            return _read_text(self.history_password_file, "HISTORY_PASSWORD_FILE").rstrip("\r\n")
        return None if self.history_password is None else self.history_password.get_secret_value()


def _read_text(path: Path, setting: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidRequest(f"{PREFIX}{setting}: {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{PREFIX}{setting}: {path} is not UTF-8 text") from error


def read_settings() -> Settings:
    """Read the settings from the environment.

    Raises InvalidRequest with one line for each invalid variable.
    """
    try:
        return Settings()
    except ValidationError as error:
        lines = [
            f"{PREFIX}{'_'.join(str(part) for part in detail['loc']).upper()}: {detail['msg']}"
            for detail in error.errors()
        ]
        raise InvalidRequest("\n".join(lines)) from error


def setting_rows() -> list[tuple[str, str, str]]:
    """Return (variable, default, description) for every setting, for the help text and the documentation."""
    rows = []
    for name, field in Settings.model_fields.items():
        default = "" if field.default in (None, (), "") else str(field.default)
        rows.append((f"{PREFIX}{name.upper()}", default, field.description or ""))
    return rows


def settings_markdown() -> str:
    """Return the text of `docs/settings.md`."""
    rows = "\n".join(
        f"| `{name}` | {f'`{default}`' if default else ''} | {text} |" for name, default, text in setting_rows()
    )
    return f"""# Settings

Every setting is an environment variable that is read once, when the process starts. `make docs` generates this page
from `runtime/flowpod/settings.py`; `flowpod serve --help` prints the same list.

| variable | default | meaning |
|---|---|---|
{rows}

OpenTelemetry's standard variables work as its documentation describes:

- `OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_EXPORTER_OTLP_PROTOCOL` (`grpc` or `http/protobuf`) and
  `OTEL_EXPORTER_OTLP_HEADERS`. To set one for a single signal, use `OTEL_EXPORTER_OTLP_TRACES_...` or
  `OTEL_EXPORTER_OTLP_METRICS_...`.
- `OTEL_TRACES_EXPORTER` and `OTEL_METRICS_EXPORTER`: lists of `otlp`, `console` and `none`.
- `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_TRACES_SAMPLER` and the others.

Traces and metrics are exported once an endpoint or an exporter is set; see [observability.md](observability.md).

A connection can read any variable with `${{env:NAME}}`.
"""
