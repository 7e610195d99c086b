"""How a benchmark asks the mock model for an answer, and the answer that must come back."""

from dataclasses import dataclass

_LINE = "Line {:06d} of a report that somebody has pasted, with some numbers: 3.14, 2,718 and 42 %.\n"


@dataclass(frozen=True, slots=True)
class Question:
    """A question that says what the mock answers: how many chunks, and how many seconds apart.

    It begins with lines of ordinary text, about `size` bytes in all.
    """

    chunks: int = 64
    pause_s: float = 0.0
    size: int = 0

    def __str__(self) -> str:
        lines = (_LINE.format(number) for number in range(self.size // len(_LINE.format(0))))
        return f"{''.join(lines)}chunks:{self.chunks}:{self.pause_s:g} please"

    @property
    def answer(self) -> str:
        """The whole answer."""
        return "".join(word(number) for number in range(self.chunks))


def word(number: int) -> str:
    """Return the text of one chunk; no text needs escaping in JSON."""
    return f"word{number % 10} "
