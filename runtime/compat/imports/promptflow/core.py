"""`promptflow.core`."""

from runtime.compat import connections
from runtime.compat.connections import *  # noqa: F403
from runtime.compat.marker import tool
from runtime.compat.missing import named_in
from runtime.compat.tools import ToolProvider, log_metric

log_flow_metric = log_metric

__all__ = ["ToolProvider", "log_flow_metric", "log_metric", "tool"]
__all__ += connections.__all__
__getattr__ = named_in(__name__)
