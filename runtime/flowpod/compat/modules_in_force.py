"""The modules that a flow's own imports give it: those of an installed promptflow or langstudio, else the stand-ins.

Objects for a flow's code must be of these classes, because the code compares them with the ones that it imports.
"""

from types import ModuleType

# The imports are inside the functions because the names exist only once `stand_ins.install` has run.


def connections() -> ModuleType:
    """Return `promptflow.connections`."""
    import promptflow.connections

    return promptflow.connections


def multimedia() -> ModuleType:
    """Return `promptflow.contracts.multimedia`."""
    import promptflow.contracts.multimedia

    return promptflow.contracts.multimedia


def value_types() -> ModuleType:
    """Return `promptflow.contracts.types`."""
    import promptflow.contracts.types

    return promptflow.contracts.types


def files() -> ModuleType:
    """Return `langstudio.types`."""
    import langstudio.types

    return langstudio.types
