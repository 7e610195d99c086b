import copy
from typing import Any

import pytest

from flowpod.compat.connections import (
    AzureAIServicesConnection,
    AzureContentSafetyConnection,
    AzureOpenAIConnection,
    CognitiveSearchConnection,
    CustomConnection,
    CustomStrongTypeConnection,
    FormRecognizerConnection,
    OpenAIConnection,
    SerpConnection,
    ServerlessConnection,
)
from flowpod.compat.values import Secret


@pytest.mark.parametrize(
    ("connection", "kind", "values"),
    [
        (
            AzureOpenAIConnection("https://a", "k", name="c"),
            "AzureOpenAI",
            {
                "api_base": "https://a",
                "api_type": "azure",
                "api_version": "2024-02-01",
                "auth_mode": "key",
                "resource_id": None,
                "api_key": "k",
            },
        ),
        (OpenAIConnection("k", "", ""), "OpenAI", {"organization": None, "base_url": None, "api_key": "k"}),
        (ServerlessConnection("k", "https://a"), "Serverless", {"api_base": "https://a", "api_key": "k"}),
        (
            CognitiveSearchConnection("https://a", "k"),
            "CognitiveSearch",
            {"api_base": "https://a", "api_version": "2023-11-01", "auth_mode": "key", "api_key": "k"},
        ),
        (
            AzureContentSafetyConnection("k", "https://a"),
            "AzureContentSafety",
            {"endpoint": "https://a", "api_version": "2023-10-01", "api_type": "Content Safety", "api_key": "k"},
        ),
        (
            FormRecognizerConnection("k", "https://a"),
            "FormRecognizer",
            {"endpoint": "https://a", "api_version": "2023-07-31", "api_type": "Form Recognizer", "api_key": "k"},
        ),
        (
            AzureAIServicesConnection("https://a", "k"),
            "AzureAIServices",
            {"endpoint": "https://a", "auth_mode": "key", "api_key": "k"},
        ),
        (SerpConnection("k"), "Serp", {"api_key": "k"}),
        (CustomConnection({"s": "1"}, {"c": "2"}), "Custom", {"c": "2", "s": "1"}),
    ],
)
def test_values_are_attributes_and_items(connection: Any, kind: str, values: dict[str, Any]) -> None:
    assert (connection.type, connection.class_name) == (kind, f"{kind}Connection")
    assert list(dict(connection).items()) == list(values.items())
    assert {name: getattr(connection, name) for name in values} == values
    assert "k" not in repr(connection).split("'")
    with pytest.raises(KeyError, match="nothing"):
        connection["nothing"]


def test_value_can_be_set() -> None:
    connection = AzureOpenAIConnection("https://a", "k")
    connection.api_key, connection.api_base = "new", "https://b"
    assert connection.secrets == {"api_key": "new"}
    assert connection["api_base"] == "https://b"


def test_custom_connection_knows_its_secrets() -> None:
    connection = CustomConnection({"key": "s"}, {"url": "u"}, name="mine")
    assert (connection.is_secret("key"), connection.is_secret("url")) == (True, False)
    assert repr(connection) == "<CustomConnection 'mine'>"
    assert copy.deepcopy(connection).key == "s"
    with pytest.raises(AttributeError, match="connection 'mine' has no 'other'"):
        _ = connection.other


class Mine(CustomStrongTypeConnection):
    key: Secret
    late: "Secret"
    url: str = "https://default"
    size: int = 3


def test_custom_class_reads_configs_and_secrets_by_its_annotations() -> None:
    mine = Mine(secrets={"key": "s", "late": "l"}, configs={"url": "https://own"})
    assert (mine.key, mine.late, mine.url, mine.size) == ("s", "l", "https://own", 3)
    mine.key, mine.url = Secret("t"), "https://new"
    assert (mine.secrets["key"], mine.configs["url"]) == ("t", "https://new")
    assert "s" not in repr(mine).split("'")
