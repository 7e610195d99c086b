"""promptflow's kinds of text, with which a tool's parameters are annotated."""


class Secret(str):
    """A text that must not be shown."""

    __slots__ = ()


class PromptTemplate(str):
    """The text of a prompt file."""

    __slots__ = ()


class FilePath(str):
    """The path of a file."""

    __slots__ = ()
