"""The modules that a flow's own imports give it: those of an installed promptflow or langstudio, else the stand-ins.

Objects for a flow's code must be of these classes, because the code compares them with the ones that it imports.
"""

from functools import partial
from importlib import import_module

# Functions, because the names exist only once `stand_ins.install` has run.
connections = partial(import_module, "promptflow.connections")
multimedia = partial(import_module, "promptflow.contracts.multimedia")
value_types = partial(import_module, "promptflow.contracts.types")
files = partial(import_module, "langstudio.types")
