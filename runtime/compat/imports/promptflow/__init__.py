"""promptflow's names that flows import; old flows take `tool` from here."""

from runtime.compat.marker import tool

__all__ = ["tool"]
