"""`promptflow.connections`."""

from flowpod.compat import connections
from flowpod.compat.connections import *  # noqa: F403
from flowpod.compat.connections import _Connection
from flowpod.compat.missing import named_in

__all__ = ["_Connection"]
__all__ += connections.__all__
__getattr__ = named_in(__name__)
