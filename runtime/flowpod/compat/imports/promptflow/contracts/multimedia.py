"""`promptflow.contracts.multimedia`."""

from flowpod.compat.images import Image, PFBytes
from flowpod.compat.missing import refuse_others

__all__ = ["Image", "PFBytes"]
__getattr__ = refuse_others(__name__)
