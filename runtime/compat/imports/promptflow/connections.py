"""`promptflow.connections`."""

from runtime.compat import connections
from runtime.compat.connections import *  # noqa: F403
from runtime.compat.connections import _Connection
from runtime.compat.missing import named_in

__all__ = ["_Connection"]
__all__ += connections.__all__
__getattr__ = named_in(__name__)
