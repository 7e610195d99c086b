"""The models behind a flow's connections, one client each."""

import logging
from collections.abc import Mapping

from flowpod.errors import BuildError
from flowpod.flow.model import Connection
from flowpod.models.base import ChatModel
from flowpod.models.offline import MODEL, OfflineChat

logger = logging.getLogger(__name__)

_TYPES = ("open_ai", "azure_open_ai", "serverless", "dashscope")


class Models:
    """Makes a connection's model when a node first asks for it, and keeps it."""

    def __init__(self, connections: Mapping[str, Connection]) -> None:
        self._connections = connections
        self._models: dict[str, ChatModel] = {}

    def get(self, name: str) -> ChatModel:
        """Return the model behind the connection `name`; see `ChatModels.get`."""
        if name not in self._models:
            self._models[name] = _model(self._connections[name])
        return self._models[name]

    async def close(self) -> None:
        """Close every client."""
        for model in self._models.values():
            await model.close()


def _model(connection: Connection) -> ChatModel:
    if connection.type == "offline":
        if connection.name != "offline":
            text = "connection %r has none of its environment variables set: its model is %s, which needs no server"
            logger.warning(text, connection.name, MODEL)
        return OfflineChat()
    if connection.type not in _TYPES:
        text = (
            f"connection {connection.name!r} is of type {connection.type!r}; a model needs one of {', '.join(_TYPES)}"
        )
        raise BuildError("connection", text)
    # The client takes half a second to import, which a flow without a model server need not wait for.
    if connection.type == "dashscope":
        from flowpod.models.dashscope import DashScopeChat

        return DashScopeChat(connection)
    if connection.fields.get("api") == "responses":
        from flowpod.models.openai_responses import OpenAIResponses

        return OpenAIResponses(connection)
    from flowpod.models.openai_chat import OpenAIChat

    return OpenAIChat(connection)
