"""promptflow's names that flows import; old flows take `tool` from here."""

from flowpod.compat.marker import tool
from flowpod.compat.missing import named_in
from flowpod.compat.tools import ToolProvider, log_metric

log_flow_metric = log_metric

__all__ = ["ToolProvider", "log_flow_metric", "log_metric", "tool"]
__getattr__ = named_in(__name__)
