"""`promptflow.contracts.types`."""

from runtime.compat.missing import named_in
from runtime.compat.values import FilePath, PromptTemplate, Secret

__all__ = ["FilePath", "PromptTemplate", "Secret"]
__getattr__ = named_in(__name__)
