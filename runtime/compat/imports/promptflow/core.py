"""`from promptflow.core import tool`."""

from runtime.compat.marker import tool

__all__ = ["tool"]
