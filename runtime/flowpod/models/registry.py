"""The models behind a flow's connections, one client each."""

import logging
from collections.abc import Mapping

from flowpod.errors import BuildError
from flowpod.flow.model import Connection
from flowpod.models.base import Model
from flowpod.models.offline import MODEL, OfflineModel

logger = logging.getLogger(__name__)

_TYPES = ("open_ai", "azure_open_ai", "serverless", "dashscope")


class ModelRegistry:
    """Makes the model of a connection when a node first needs it, and keeps it."""

    def __init__(self, connections: Mapping[str, Connection]) -> None:
        self._connections = connections
        self._models: dict[str, Model] = {}

    def model_of(self, connection: str) -> Model:
        """Return the model of a connection; raises KeyError if there is none, BuildError if its type has no model."""
        if connection not in self._models:
            self._models[connection] = _make_model(self._connections[connection])
        return self._models[connection]

    async def close(self) -> None:
        """Close every model."""
        for model in self._models.values():
            await model.close()


def _make_model(connection: Connection) -> Model:
    if connection.type == "offline":
        if connection.name != "offline":
            text = "connection %r has none of its environment variables set: its model is %s, which needs no server"
            logger.warning(text, connection.name, MODEL)
        return OfflineModel()
    if connection.type not in _TYPES:
        what = f"connection {connection.name!r} is of type {connection.type!r}"
        raise BuildError("connection", f"{what}; a model needs one of {', '.join(_TYPES)}")
    # Importing the client takes half a second, so a flow without a model server does not.
    if connection.type == "dashscope":
        from flowpod.models.dashscope import DashScopeModel

        return DashScopeModel(connection)
    if connection.fields.get("api") == "responses":
        from flowpod.models.openai_responses import ResponsesModel

        return ResponsesModel(connection)
    from flowpod.models.openai_chat import ChatCompletionsModel

    return ChatCompletionsModel(connection)
