from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from flowpod.errors import InvalidRequest
from flowpod.settings import Settings, read_settings, setting_rows, settings_markdown
from tests.support.serving import ROOT


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the settings of the shell that runs the tests."""
    for name, _, _ in setting_rows():
        monkeypatch.delenv(name, raising=False)


def read(monkeypatch: pytest.MonkeyPatch, environ: Mapping[str, str]) -> Settings:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    return read_settings()


@pytest.mark.parametrize(
    ("variable", "text", "value"),
    [
        ("FLOWPOD_TOKENS", "one", ("one",)),
        ("FLOWPOD_TOKENS", "one,two", ("one", "two")),
        ("FLOWPOD_TOKENS", " one , ,two,", ("one", "two")),
        ("FLOWPOD_TOKENS", "", ()),
        ("FLOWPOD_TOKENS", '["json", "stays"]', ('["json"', '"stays"]')),
        ("FLOWPOD_AUTH", "off", "off"),
        ("FLOWPOD_SERVICE_NAME", "my_bot2", "my_bot2"),
        ("FLOWPOD_SERVICE_NAME", "a" * 40, "a" * 40),
        ("FLOWPOD_DATA_DIR", "/data/x", Path("/data/x")),
        ("FLOWPOD_HISTORY", "mysql://user:pass@host/db", "mysql://user:pass@host/db"),
        ("FLOWPOD_HISTORY_DAYS", "0.5", 0.5),
        ("FLOWPOD_DASHSCOPE_APP_IDS", "one, two", ("one", "two")),
        ("FLOWPOD_DASHSCOPE_SESSION_S", "60", 60.0),
        ("FLOWPOD_MAX_RUNS", "7", 7),
        ("FLOWPOD_RUN_TIMEOUT_S", "0.5", 0.5),
        ("FLOWPOD_MAX_BODY_BYTES", "1024", 1024),
        ("FLOWPOD_FILE_MOUNTS", "", ()),
        ("FLOWPOD_FILE_MOUNTS", "/a, /b/c", (Path("/a"), Path("/b/c"))),
        ("FLOWPOD_ALLOW_PRIVATE_URLS", "on", "on"),
        ("FLOWPOD_TRACING", "off", "off"),
        ("FLOWPOD_ROOT_PATH", "/bots/a", "/bots/a"),
        ("FLOWPOD_DRAIN_DELAY_S", "0", 0.0),
        ("FLOWPOD_LOG_LEVEL", "debug", "debug"),
        ("flowpod_max_runs", "8", 8),
    ],
)
def test_variable_is_read(monkeypatch: pytest.MonkeyPatch, variable: str, text: str, value: Any) -> None:
    assert getattr(read(monkeypatch, {variable: text}), variable.lower().removeprefix("flowpod_")) == value


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("FLOWPOD_AUTH", "no"),
        ("FLOWPOD_SERVICE_NAME", "My-Bot"),
        ("FLOWPOD_SERVICE_NAME", "1st"),
        ("FLOWPOD_SERVICE_NAME", "a" * 41),
        ("FLOWPOD_SERVICE_NAME", ""),
        ("FLOWPOD_HISTORY_DAYS", "0"),
        ("FLOWPOD_HISTORY_DAYS", "many"),
        ("FLOWPOD_HISTORY_DAYS", "1e12"),
        ("FLOWPOD_SINGLE_TURN_DAYS", "1e6"),
        ("FLOWPOD_HISTORY_WRITE_TIMEOUT_S", "0"),
        ("FLOWPOD_SINGLE_TURN_DAYS", "0"),
        ("FLOWPOD_MAX_RUNS", "0"),
        ("FLOWPOD_MAX_RUNS", "1.5"),
        ("FLOWPOD_RUN_TIMEOUT_S", "0"),
        ("FLOWPOD_RUN_TIMEOUT_S", "ten"),
        ("FLOWPOD_THREADS", "0"),
        ("FLOWPOD_MAX_BODY_BYTES", "10MB"),
        ("FLOWPOD_HEARTBEAT_S", "-1"),
        ("FLOWPOD_FILE_MOUNTS", "/a,b"),
        ("FLOWPOD_ALLOW_PRIVATE_URLS", "yes"),
        ("FLOWPOD_TRACING", "true"),
        ("FLOWPOD_DRAIN_DELAY_S", "-1"),
        ("FLOWPOD_GRACE_S", "-0.1"),
        ("FLOWPOD_LOG_LEVEL", "loud"),
    ],
)
def test_bad_value_names_its_variable(monkeypatch: pytest.MonkeyPatch, variable: str, text: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^{variable}: "):
        read(monkeypatch, {variable: text})


@pytest.mark.parametrize("text", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("variable", [name for name, default, _ in setting_rows() if name.endswith(("_S", "_DAYS"))])
def test_time_must_be_a_finite_number(monkeypatch: pytest.MonkeyPatch, variable: str, text: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^{variable}: "):
        read(monkeypatch, {variable: text})


def test_all_bad_values_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(monkeypatch, {"FLOWPOD_THREADS": "none", "FLOWPOD_AUTH": "maybe", "FLOWPOD_GRACE_S": "x"})
    lines = caught.value.message.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["FLOWPOD_AUTH", "FLOWPOD_THREADS", "FLOWPOD_GRACE_S"]


def test_origins_are_split_and_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    origins = "https://a.example, http://localhost:3000,app://chat,null"
    assert read(monkeypatch, {"FLOWPOD_CORS_ORIGINS": origins}).cors_origins == tuple(
        origins.replace(" ", "").split(",")
    )
    assert read(monkeypatch, {"FLOWPOD_CORS_ORIGINS": "*"}).cors_origins == ("*",)
    with pytest.raises(
        InvalidRequest, match=r"^FLOWPOD_CORS_ORIGINS: .*no path; invalid: https://a.example/, b.example$"
    ):
        read(monkeypatch, {"FLOWPOD_CORS_ORIGINS": "https://a.example/,b.example,http://c.example"})


def test_unknown_variable_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read(monkeypatch, {"FLOWPOD_FUTURE": "1"}) == Settings()


@pytest.mark.parametrize(
    ("tokens", "content", "valid"),
    [
        ("", "one\n", ("one",)),
        ("", "one\ntwo", ("one", "two")),
        ("", "\n  one  \n\n\ttwo\n\n", ("one", "two")),
        ("", "one\r\ntwo\r\n", ("one", "two")),
        ("env", "file\n", ("env", "file")),
    ],
)
def test_tokens_file_has_one_token_a_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tokens: str, content: str, valid: tuple[str, ...]
) -> None:
    path = tmp_path / "tokens"
    path.write_text(content, newline="")
    environ = {"FLOWPOD_TOKENS": tokens, "FLOWPOD_TOKENS_FILE": str(path)}
    assert read(monkeypatch, environ).valid_tokens() == valid


def test_tokens_without_a_file_are_the_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read(monkeypatch, {"FLOWPOD_TOKENS": "a,b"}).valid_tokens() == ("a", "b")


@pytest.mark.parametrize("content", [b"", b"\n  \n", None, b"\xff\xfe\x00token"])
def test_unusable_tokens_file_is_refused_by_name(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "tokens"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InvalidRequest, match=r"^FLOWPOD_TOKENS_FILE: .*tokens"):
        Settings(tokens=("env",), tokens_file=path).valid_tokens()


def test_folder_as_tokens_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"^FLOWPOD_TOKENS_FILE: .*cannot be read"):
        Settings(tokens_file=tmp_path).valid_tokens()


def test_every_setting_has_a_description_that_fits_a_table() -> None:
    for name, _, description in setting_rows():
        assert description.endswith("."), name
        assert "|" not in description, name
        assert "\n" not in description, name


def test_settings_page_is_up_to_date() -> None:
    assert (ROOT / "docs/settings.md").read_text() == settings_markdown(), "run `make docs`"
