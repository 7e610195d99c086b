"""`from langstudio.core import tool`."""

from flowpod.compat.marker import tool

__all__ = ["tool"]
