"""`promptflow.contracts.types`."""

from flowpod.compat.missing import named_in
from flowpod.compat.values import FilePath, PromptTemplate, Secret

__all__ = ["FilePath", "PromptTemplate", "Secret"]
__getattr__ = named_in(__name__)
