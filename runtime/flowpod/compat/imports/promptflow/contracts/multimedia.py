"""`promptflow.contracts.multimedia`."""

from flowpod.compat.images import Image, PFBytes
from flowpod.compat.missing import named_in

__all__ = ["Image", "PFBytes"]
__getattr__ = named_in(__name__)
