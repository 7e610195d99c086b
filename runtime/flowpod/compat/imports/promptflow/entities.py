"""`promptflow.entities`: the connections that old code takes from here."""

from flowpod.compat import connections
from flowpod.compat.connections import *  # noqa: F403
from flowpod.compat.missing import named_in

__all__: list[str] = []
__all__ += connections.__all__
__getattr__ = named_in(__name__)
