"""promptflow's types of text for the annotations of a tool's parameters."""


class Secret(str):
    """Text that must not be shown."""

    __slots__ = ()


class PromptTemplate(str):
    """The text of a prompt file."""

    __slots__ = ()


class FilePath(str):
    """The path of a file."""

    __slots__ = ()
