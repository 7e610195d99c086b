"""`promptflow.entities`, from which old flows import the connections."""

from flowpod.compat import connections
from flowpod.compat.connections import *  # noqa: F403
from flowpod.compat.missing import refuse_others

__all__: list[str] = []
__all__ += connections.__all__
__getattr__ = refuse_others(__name__)
