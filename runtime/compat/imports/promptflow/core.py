"""`promptflow.core`."""

from runtime.compat.connections import (
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
from runtime.compat.marker import tool
from runtime.compat.missing import named_in
from runtime.compat.tools import ToolProvider, log_metric

log_flow_metric = log_metric

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
    "ToolProvider",
    "log_flow_metric",
    "log_metric",
    "tool",
]
__getattr__ = named_in(__name__)
