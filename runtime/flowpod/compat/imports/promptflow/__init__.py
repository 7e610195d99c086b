"""Stand-in for promptflow's package; old flows import `tool` from here."""

from flowpod.compat.marker import tool
from flowpod.compat.missing import refuse_others
from flowpod.compat.tools import ToolProvider, log_metric

log_flow_metric = log_metric

__all__ = ["ToolProvider", "log_flow_metric", "log_metric", "tool"]
__getattr__ = refuse_others(__name__)
