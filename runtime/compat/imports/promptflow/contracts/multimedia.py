"""`promptflow.contracts.multimedia`."""

from runtime.compat.images import Image, PFBytes
from runtime.compat.missing import named_in

__all__ = ["Image", "PFBytes"]
__getattr__ = named_in(__name__)
