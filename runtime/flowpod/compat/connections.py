"""Connections as a flow's Python code sees them, with promptflow's classes and attributes.

The repr of a connection names it and no more: it may end up in a log.
"""

import inspect
from collections.abc import Mapping
from typing import Any, ClassVar

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


class _Setting:
    """An attribute that is kept in the connection's `configs` or `secrets`."""

    def __init__(self, place: str = "configs") -> None:
        self._place = place

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, connection: Any, owner: type | None = None) -> Any:
        return self if connection is None else getattr(connection, self._place).get(self._name)

    def __set__(self, connection: Any, value: Any) -> None:
        getattr(connection, self._place)[self._name] = value


class _Connection:
    """A connection: `configs` may be shown, `secrets` may not. `dict(connection)` has both, configs first."""

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
        """Return the names of all values, so that `dict(connection)` and `**connection` work."""
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
    """OpenAI, or a server that speaks its API."""

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
    """Any values; each is an attribute as well."""

    TYPE = "Custom"

    def __init__(
        self, secrets: Mapping[str, Any], configs: Mapping[str, Any] | None = None, name: str | None = None
    ) -> None:
        super().__init__(configs, secrets, name)

    def __getattr__(self, name: str) -> Any:
        for place in ("secrets", "configs"):
            values = self.__dict__.get(place, {})  # copy makes an object without them, and asks it
            if name in values:
                return values[name]
        raise AttributeError(f"connection {self.__dict__.get('name')!r} has no {name!r}")

    def is_secret(self, name: str) -> bool:
        """Return whether the value `name` is a secret."""
        return name in self.secrets


class CustomStrongTypeConnection(_Connection):
    """The base of a flow's own connection classes, whose annotations name the values of a custom connection.

    A value that is annotated as Secret is one of `secrets`, any other one of `configs`; the class's default counts
    where the connection has none.
    """

    TYPE = "Custom"

    def __init__(
        self, secrets: Mapping[str, Any], configs: Mapping[str, Any] | None = None, name: str | None = None
    ) -> None:
        super().__init__(configs, secrets, name)

    def __getattribute__(self, name: str) -> Any:
        place = _place(type(self), name)
        if place and name in (values := object.__getattribute__(self, place)):
            return values[name]
        return object.__getattribute__(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if place := _place(type(self), name):
            getattr(self, place)[name] = value
        else:
            object.__setattr__(self, name, value)


def _place(kind: type, name: str) -> str:
    """Return where a class keeps the value `name` that it annotates, "" when it does not annotate it."""
    for base in kind.__mro__:
        if base is CustomStrongTypeConnection:
            return ""
        annotations = inspect.get_annotations(base)
        if name in annotations:
            return "secrets" if annotations[name] in (Secret, "Secret") else "configs"
    return ""
