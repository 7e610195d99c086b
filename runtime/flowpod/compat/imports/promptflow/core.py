"""`promptflow.core`."""

from flowpod.compat import connections
from flowpod.compat.connections import *  # noqa: F403
from flowpod.compat.marker import tool
from flowpod.compat.missing import refuse_others
from flowpod.compat.tools import ToolProvider, log_metric

log_flow_metric = log_metric

__all__ = ["ToolProvider", "log_flow_metric", "log_metric", "tool"]
__all__ += connections.__all__
__getattr__ = refuse_others(__name__)
