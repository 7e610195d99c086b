"""Connections as a flow's Python code sees them, with promptflow's classes and attributes; a repr shows no secret."""

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


def class_name(connection_type: str) -> str:
    """Return the class of a connection type in either spelling (`azure_open_ai`, `AzureOpenAI`), "" if unknown."""
    wanted = f"{connection_type.replace('_', '')}Connection".lower()
    return next((name for name in __all__ if name.lower() == wanted), "")


_REQUIRED: Any = inspect.Parameter.empty


class _Setting:
    """A value in the connection's `configs`, of the key `api_key` in its `secrets`, as attribute and parameter."""

    def __init__(self, default: Any = _REQUIRED) -> None:
        self.default = default

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name
        self._mapping = "secrets" if name == "api_key" else "configs"

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
        if key not in self.keys():
            raise KeyError(f"connection {self.name!r} has no {key!r}")
        return {**self.configs, **self.secrets}[key]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"


class _ServiceConnection(_Connection):
    """A connection whose constructor takes the settings of its class, in their order, and then a name."""

    __signature__: ClassVar[inspect.Signature]
    _defaults: ClassVar[dict[str, Any]] = {}

    def __init_subclass__(cls) -> None:
        own = {name: setting.default for name, setting in vars(cls).items() if isinstance(setting, _Setting)}
        cls._defaults = {**cls._defaults, **own}
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        defaults = {**cls._defaults, "name": None}
        cls.__signature__ = inspect.Signature(
            [inspect.Parameter(name, kind, default=default) for name, default in defaults.items()]
        )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        bound = self.__signature__.bind(*args, **kwargs)
        bound.apply_defaults()
        super().__init__(name=bound.arguments.pop("name"))
        for name, value in bound.arguments.items():
            # An optional setting with an empty text counts as not set.
            setattr(self, name, None if value == "" and self._defaults[name] is None and name != "api_key" else value)


class OpenAIConnection(_ServiceConnection):
    """OpenAI, or a server with the same API."""

    TYPE = "OpenAI"
    api_key = _Setting()
    organization = _Setting(None)
    base_url = _Setting(None)


class AzureOpenAIConnection(_ServiceConnection):
    """Azure OpenAI."""

    TYPE = "AzureOpenAI"
    api_base = _Setting()
    api_key = _Setting(None)
    api_type = _Setting("azure")
    api_version = _Setting("2024-02-01")
    auth_mode = _Setting("key")
    resource_id = _Setting(None)


class ServerlessConnection(_ServiceConnection):
    """A serverless endpoint of Azure's model catalogue."""

    TYPE = "Serverless"
    api_key = _Setting()
    api_base = _Setting()


class CognitiveSearchConnection(_ServiceConnection):
    """Azure AI Search."""

    TYPE = "CognitiveSearch"
    api_base = _Setting()
    api_key = _Setting(None)
    api_version = _Setting("2023-11-01")
    auth_mode = _Setting("key")


class AzureContentSafetyConnection(_ServiceConnection):
    """Azure AI Content Safety."""

    TYPE = "AzureContentSafety"
    api_key = _Setting()
    endpoint = _Setting()
    api_version = _Setting("2023-10-01")
    api_type = _Setting("Content Safety")


class FormRecognizerConnection(AzureContentSafetyConnection):
    """Azure AI Document Intelligence."""

    TYPE = "FormRecognizer"
    api_version = _Setting("2023-07-31")
    api_type = _Setting("Form Recognizer")


class AzureAIServicesConnection(_ServiceConnection):
    """Azure AI Services."""

    TYPE = "AzureAIServices"
    endpoint = _Setting()
    api_key = _Setting(None)
    auth_mode = _Setting("key")


class SerpConnection(_ServiceConnection):
    """SerpApi."""

    TYPE = "Serp"
    api_key = _Setting()


class _CustomConnection(_Connection):
    TYPE = "Custom"

    def __init__(
        self, secrets: Mapping[str, Any], configs: Mapping[str, Any] | None = None, name: str | None = None
    ) -> None:
        super().__init__(configs, secrets, name)


class CustomConnection(_CustomConnection):
    """Any values, each also an attribute."""

    def __getattr__(self, name: str) -> Any:
        for mapping in ("secrets", "configs"):
            values = self.__dict__.get(mapping, {})  # copy.copy asks an object that has neither yet
            if name in values:
                return values[name]
        raise AttributeError(f"connection {self.__dict__.get('name')!r} has no {name!r}")

    def is_secret(self, name: str) -> bool:
        """Return whether the value `name` is a secret."""
        return name in self.secrets


class CustomStrongTypeConnection(_CustomConnection):
    """The base of a flow's own connection classes, whose annotations name the values of a custom connection.

    A value annotated as Secret is in `secrets`, any other one in `configs`. The class's default applies where the
    connection has no value.
    """

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
