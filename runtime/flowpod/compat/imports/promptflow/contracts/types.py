"""`promptflow.contracts.types`."""

from flowpod.compat.missing import refuse_others
from flowpod.compat.values import FilePath, PromptTemplate, Secret

__all__ = ["FilePath", "PromptTemplate", "Secret"]
__getattr__ = refuse_others(__name__)
