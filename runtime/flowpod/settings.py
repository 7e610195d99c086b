"""The settings: one class, read once from the environment by the command line."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from flowpod.errors import InvalidRequest

PREFIX = "FLOWPOD_"
_CENTURY_DAYS = 36_500
_ORIGIN = re.compile(r"\*|null|[a-z][a-z0-9+.-]*://[^/\s]+")


class Settings(BaseSettings):
    """What a deployment can set; each field is the variable `FLOWPOD_<NAME>`."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore", allow_inf_nan=False)

    tokens: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        repr=False,
        description="Tokens that are accepted, separated by commas. Several at once let you rotate them.",
    )
    tokens_file: Path | None = Field(None, description="A file with one token a line, beside `FLOWPOD_TOKENS`.")
    auth: Literal["on", "off"] = Field(
        "on",
        description="`off` serves without a token on any address. Only behind a gateway that checks callers.",
    )
    connections: Path | None = Field(
        None,
        description="A file or a folder of connections. They win over the flow's own, so that a folder which brings "
        "none, or other ones, is served unchanged.",
    )
    service_name: str | None = Field(
        None,
        pattern=r"^[a-z][a-z0-9_]{0,39}$",
        description="The service's name, in table names, traces and `/v1/models`. The flow folder's name by default.",
    )
    data_dir: Path | None = Field(
        None, description="Where data is kept. `.flowpod/<service>` in the current folder by default."
    )
    history: str | None = Field(
        None,
        description="Where the chat history is kept: `sqlite:///path/file.db`, `mysql://user:password@host/database`, "
        "or `off`. `chat_history.db` in the data folder by default. MySQL takes `?ssl_mode=` "
        "and, with files, `ssl_ca=`, `ssl_cert=` and `ssl_key=`.",
    )
    history_password: SecretStr | None = Field(
        None, description="The password of the chat history's database, instead of one in `FLOWPOD_HISTORY`."
    )
    history_password_file: Path | None = Field(None, description="A file with that password, as secrets are mounted.")
    history_days: float | None = Field(
        None,
        gt=0,
        le=_CENTURY_DAYS,
        description="When a session that nobody used is deleted, in days. Never by default.",
    )
    openwebui_sessions: Literal["on", "off"] = Field(
        "off",
        description="`on` keeps the history of Open WebUI's chats, by the `X-OpenWebUI-Chat-Id` that it sends.",
    )
    dashscope_app_ids: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="The application ids, separated by commas, that DashScope's clients may call. Any by default.",
    )
    dashscope_session_s: float = Field(
        3600,
        gt=0,
        description="When a `session_id` of DashScope's clients ends that was not used, in seconds.",
    )
    history_write_timeout_s: float = Field(
        2, gt=0, description="How long the end of a run waits for its turn to be stored, in seconds."
    )
    single_turn_days: float = Field(
        1,
        gt=0,
        le=_CENTURY_DAYS,
        description="When a session that was never named by a client and has one turn is deleted, in days.",
    )
    max_runs: int = Field(1000, ge=1, description="Runs at once in a process; one more gets 429.")
    run_timeout_s: float = Field(
        570,
        gt=0,
        description="How long a run may take, in seconds. OpenAI clients give up, and ask again, at 600.",
    )
    max_background_runs: int = Field(
        100, ge=1, description="Background runs at once in a process, besides the others; one more waits."
    )
    background_queue: int = Field(
        1000, ge=0, description="How many background runs may wait in a process; one more gets 429."
    )
    run_days: float = Field(
        30,
        gt=0,
        le=_CENTURY_DAYS,
        description="When a background run, or a stored response, is deleted after its end, in days.",
    )
    threads: int = Field(
        64,
        ge=1,
        description="Threads for synchronous Python nodes in each process, and as many for templates with loops.",
    )
    max_body_bytes: int = Field(10 * 1024 * 1024, ge=1, description="The largest request body; a larger one gets 413.")
    max_output_chars: int = Field(
        8 * 1024 * 1024,
        ge=1,
        description="How long a text that a node streams, or that an output holds back, may get, in characters.",
    )
    file_mounts: Annotated[tuple[Path, ...], NoDecode] = Field(
        (),
        description="Folders, separated by commas, whose files a request may name by their path. None by default.",
    )
    allow_private_urls: Literal["on", "off"] = Field(
        "off",
        description="`on` lets a request name files and images at URLs whose address is not public.",
    )
    docs: Literal["on", "off"] = Field(
        "on", description="`off` serves neither `/openapi.json` nor `/docs`, which anybody may read."
    )
    heartbeat_s: float = Field(
        15,
        gt=0,
        description="A stream that is silent this long gets a comment, in seconds, so that proxies keep it.",
    )
    tracing: Literal["on", "off"] = Field("on", description="`off` makes no spans and leaves `otel_trace_id` empty.")
    trace_content: Literal["on", "off"] = Field(
        "on",
        description="`off` keeps what users and models say out of spans: no inputs, outputs and messages.",
    )
    trace_content_max_chars: int = Field(
        32768, ge=1, description="How long one text in a span may be, in characters; a longer one is cut."
    )
    trace_store: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Whether traces are kept in `traces.db` in the data folder, for `flowpod traces` and `/traces`. "
        "`auto` keeps them unless they are exported, or the history is in MySQL: of several instances, a request would "
        "reach the wrong one.",
    )
    trace_store_max_mb: int = Field(
        200, ge=1, description="How large `traces.db` may get, in MiB; the oldest traces are deleted."
    )
    trace_store_days: float = Field(7, gt=0, description="How long a trace is kept, in days.")
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Origins, separated by commas, whose pages may call this service from a browser, such as "
        "`https://chat.example.com`; `*` allows every page. None by default.",
    )
    root_path: str = Field("", description="The path prefix under which a proxy serves this service.")
    drain_delay_s: float = Field(
        5,
        ge=0,
        description="After SIGTERM: how long new work is still taken while `/readyz` says 503, in seconds.",
    )
    grace_s: float = Field(30, ge=0, description="After that: how long running runs have before they are cancelled.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="The least level to log.")
    log_format: Literal["auto", "text", "json"] = Field(
        "auto",
        description="How log lines look: `text` for people, `json` for machines; `auto` is `text` on a terminal.",
    )

    @field_validator("file_mounts")
    @classmethod
    def _check_absolute(cls, value: tuple[Path, ...]) -> tuple[Path, ...]:
        if relative := [str(path) for path in value if not path.is_absolute()]:
            raise ValueError(f"folders must be absolute, unlike {', '.join(relative)}")
        return value

    @field_validator("cors_origins")
    @classmethod
    def _check_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if wrong := [origin for origin in value if not _ORIGIN.fullmatch(origin)]:
            raise ValueError(f"an origin is a scheme, a host and perhaps a port, without a path: {', '.join(wrong)}")
        return value

    @field_validator("tokens", "file_mounts", "cors_origins", "dashscope_app_ids", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    def valid_tokens(self) -> tuple[str, ...]:
        """Return the tokens of both settings.

        Raises InvalidRequest when the file cannot be read or holds no token.
        """
        if self.tokens_file is None:
            return self.tokens
        lines = _text_of(self.tokens_file, "TOKENS_FILE").splitlines()
        tokens = tuple(line.strip() for line in lines if line.strip())
        if not tokens:
            raise InvalidRequest(f"{PREFIX}TOKENS_FILE: {self.tokens_file} holds no token")
        return self.tokens + tokens

    def valid_history_password(self) -> str | None:
        """Return the password of the chat history's database, if a setting of its own gives one.

        Raises InvalidRequest when its file cannot be read.
        """
        if self.history_password_file is not None:
            return _text_of(self.history_password_file, "HISTORY_PASSWORD_FILE").rstrip("\r\n")
        return None if self.history_password is None else self.history_password.get_secret_value()


def _text_of(path: Path, setting: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidRequest(f"{PREFIX}{setting}: {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{PREFIX}{setting}: {path} is not UTF-8 text") from error


def read_settings() -> Settings:
    """Read the settings from the environment.

    Raises InvalidRequest that names every variable that is wrong, and how.
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
    """Return (variable, default, description) of every setting, for the help text and the documentation."""
    rows = []
    for name, field in Settings.model_fields.items():
        default = "" if field.default in (None, (), "") else str(field.default)
        rows.append((f"{PREFIX}{name.upper()}", default, field.description or ""))
    return rows


def settings_markdown() -> str:
    """Return `docs/settings.md`."""
    rows = "\n".join(
        f"| `{name}` | {f'`{default}`' if default else ''} | {text} |" for name, default, text in setting_rows()
    )
    return f"""# Settings

Every setting is an environment variable, read once when the process starts. This page is generated from the
settings class by `make docs`; `flowpod serve --help` prints the same list.

| variable | default | what it does |
|---|---|---|
{rows}

OpenTelemetry's own variables are obeyed as its documentation gives them: `OTEL_EXPORTER_OTLP_ENDPOINT`,
`OTEL_EXPORTER_OTLP_PROTOCOL` (`grpc` or `http/protobuf`) and `OTEL_EXPORTER_OTLP_HEADERS`, each also for one signal as
`OTEL_EXPORTER_OTLP_TRACES_...` and `OTEL_EXPORTER_OTLP_METRICS_...`; `OTEL_TRACES_EXPORTER` and
`OTEL_METRICS_EXPORTER`, lists of `otlp`, `console` and `none`; `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_TRACES_SAMPLER` and
so on. Spans and metrics are exported when an endpoint or an exporter is set;
[observability.md](observability.md) shows how.

A connection may refer to any variable as `${{env:NAME}}`.
"""
