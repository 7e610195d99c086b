"""Connections as a flow's Python code sees them, with promptflow's classes and attributes.

The repr of a connection has its name only, because it may end up in a log.
"""

import inspect
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from flowpod.compat.values import Secret

__all__ = [
    "AzureAIServicesConnection",
    "AzureContentSafetyConnection",
    "AzureOpenAIConnection",
    "CognitiveSearchConnection",
    "CustomConnection",
    "CustomStrongTypeConnection",
    "FormRecognizerConnection",
    "OpenAIConnection",
    "SerpConnection",
    "ServerlessConnection",
]


def class_name(connection_type: str) -> str:
    """Return the name of the class for a connection type, "" when promptflow has none.

    promptflow spells a type as a class or in snake case: `azure_open_ai` and `AzureOpenAI` are AzureOpenAIConnection.
    """
    wanted = f"{connection_type.replace('_', '')}Connection".lower()
    return next((name for name in __all__ if name.lower() == wanted), "")


class _Setting:
    """An attribute whose value is in the connection's `configs` or `secrets`."""

    def __init__(self, mapping: Literal["configs", "secrets"] = "configs") -> None:
        self._mapping = mapping

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, connection: Any, owner: type | None = None) -> Any:
        return self if connection is None else getattr(connection, self._mapping).get(self._name)

    def __set__(self, connection: Any, value: Any) -> None:
        getattr(connection, self._mapping)[self._name] = value


class _Connection:
    """A connection. `configs` may be shown, `secrets` must not; `dict(connection)` has both, configs first."""

    TYPE: ClassVar[str] = "_Connection"

    def __init__(
        self,
        configs: Mapping[str, Any] | None = None,
        secrets: Mapping[str, Any] | None = None,
        name: str | None = None,
    ) -> None:
        self.name = name
        self.type = self.TYPE
        self.class_name = f"{self.TYPE}Connection"
        self.configs: dict[str, Any] = dict(configs or {})
        self.secrets: dict[str, Any] = dict(secrets or {})

    def keys(self) -> list[str]:
        """Return the names of all values, which `dict(connection)` and `**connection` need."""
        return [*self.configs, *self.secrets]

    def __getitem__(self, key: str) -> Any:
        if key in self.secrets:
            return self.secrets[key]
        if key in self.configs:
            return self.configs[key]
        raise KeyError(f"connection {self.name!r} has no {key!r}")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"


class OpenAIConnection(_Connection):
    """OpenAI, or a server with the same API."""

    TYPE = "OpenAI"
    api_key = _Setting("secrets")
    organization = _Setting()
    base_url = _Setting()

    def __init__(
        self, api_key: str, organization: str | None = None, base_url: str | None = None, name: str | None = None
    ) -> None:
        super().__init__(
            {"organization": organization or None, "base_url": base_url or None}, {"api_key": api_key}, name
        )


class AzureOpenAIConnection(_Connection):
    """Azure OpenAI."""

    TYPE = "AzureOpenAI"
    api_key = _Setting("secrets")
    api_base = _Setting()
    api_type = _Setting()
    api_version = _Setting()
    auth_mode = _Setting()
    resource_id = _Setting()

    def __init__(
        self,
        api_base: str,
        api_key: str | None = None,
        api_type: str = "azure",
        api_version: str = "2024-02-01",
        auth_mode: str = "key",
        resource_id: str | None = None,
        name: str | None = None,
    ) -> None:
        configs = {
            "api_base": api_base,
            "api_type": api_type,
            "api_version": api_version,
            "auth_mode": auth_mode,
            "resource_id": resource_id or None,
        }
        super().__init__(configs, {"api_key": api_key}, name)


class ServerlessConnection(_Connection):
    """A serverless endpoint of Azure's model catalogue."""

    TYPE = "Serverless"
    api_key = _Setting("secrets")
    api_base = _Setting()

    def __init__(self, api_key: str, api_base: str, name: str | None = None) -> None:
        super().__init__({"api_base": api_base}, {"api_key": api_key}, name)


class CognitiveSearchConnection(_Connection):
    """Azure AI Search."""

    TYPE = "CognitiveSearch"
    api_key = _Setting("secrets")
    api_base = _Setting()
    api_version = _Setting()
    auth_mode = _Setting()

    def __init__(
        self,
        api_base: str,
        api_key: str | None = None,
        api_version: str = "2023-11-01",
        auth_mode: str = "key",
        name: str | None = None,
    ) -> None:
        configs = {"api_base": api_base, "api_version": api_version, "auth_mode": auth_mode}
        super().__init__(configs, {"api_key": api_key}, name)


class AzureContentSafetyConnection(_Connection):
    """Azure AI Content Safety."""

    TYPE = "AzureContentSafety"
    api_key = _Setting("secrets")
    endpoint = _Setting()
    api_version = _Setting()
    api_type = _Setting()

    def __init__(
        self,
        api_key: str,
        endpoint: str,
        api_version: str = "2023-10-01",
        api_type: str = "Content Safety",
        name: str | None = None,
    ) -> None:
        configs = {"endpoint": endpoint, "api_version": api_version, "api_type": api_type}
        super().__init__(configs, {"api_key": api_key}, name)


class FormRecognizerConnection(AzureContentSafetyConnection):
    """Azure AI Document Intelligence."""

    TYPE = "FormRecognizer"

    def __init__(
        self,
        api_key: str,
        endpoint: str,
        api_version: str = "2023-07-31",
        api_type: str = "Form Recognizer",
        name: str | None = None,
    ) -> None:
        super().__init__(api_key, endpoint, api_version, api_type, name)


class AzureAIServicesConnection(_Connection):
    """Azure AI Services."""

    TYPE = "AzureAIServices"
    api_key = _Setting("secrets")
    endpoint = _Setting()
    auth_mode = _Setting()

    def __init__(
        self, endpoint: str, api_key: str | None = None, auth_mode: str = "key", name: str | None = None
    ) -> None:
        super().__init__({"endpoint": endpoint, "auth_mode": auth_mode}, {"api_key": api_key}, name)


class SerpConnection(_Connection):
    """SerpApi."""

    TYPE = "Serp"
    api_key = _Setting("secrets")

    def __init__(self, api_key: str, name: str | None = None) -> None:
        super().__init__({}, {"api_key": api_key}, name)


class CustomConnection(_Connection):
    """Any values, each also an attribute."""

    TYPE = "Custom"

    def __init__(
        self, secrets: Mapping[str, Any], configs: Mapping[str, Any] | None = None, name: str | None = None
    ) -> None:
        super().__init__(configs, secrets, name)

    def __getattr__(self, name: str) -> Any:
        for mapping in ("secrets", "configs"):
            values = self.__dict__.get(mapping, {})  # copy.copy asks an object that has neither yet
            if name in values:
                return values[name]
        raise AttributeError(f"connection {self.__dict__.get('name')!r} has no {name!r}")

    def is_secret(self, name: str) -> bool:
        """Return whether the value `name` is a secret."""
        return name in self.secrets


class CustomStrongTypeConnection(_Connection):
    """The base of a flow's own connection classes, whose annotations name the values of a custom connection.

    A value annotated as Secret is in `secrets`, any other one in `configs`. The class's default applies where the
    connection has no value.
    """

    TYPE = "Custom"

    def __init__(
        self, secrets: Mapping[str, Any], configs: Mapping[str, Any] | None = None, name: str | None = None
    ) -> None:
        super().__init__(configs, secrets, name)

    def __getattribute__(self, name: str) -> Any:
        mapping = _mapping_of(type(self), name)
        if mapping and name in (values := object.__getattribute__(self, mapping)):
            return values[name]
        return object.__getattribute__(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if mapping := _mapping_of(type(self), name):
            getattr(self, mapping)[name] = value
        else:
            object.__setattr__(self, name, value)


def _mapping_of(cls: type, name: str) -> str:
    """Return the mapping that holds the value `name` which a class annotates, "" when it does not annotate it."""
    for base in cls.__mro__:
        if base is CustomStrongTypeConnection:
            return ""
        annotations = inspect.get_annotations(base)
        if name in annotations:
            return "secrets" if annotations[name] in (Secret, "Secret") else "configs"
    return ""
