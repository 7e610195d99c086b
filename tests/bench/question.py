"""How a benchmark asks the mock model for an answer, and the answer that must come back."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Question:
    """A question that says what the mock answers: how many chunks, and how many seconds apart."""

    chunks: int = 64
    pause_s: float = 0.0

    def __str__(self) -> str:
        return f"chunks:{self.chunks}:{self.pause_s:g} please"

    @property
    def answer(self) -> str:
        """The whole answer."""
        return "".join(word(number) for number in range(self.chunks))


def word(number: int) -> str:
    """Return the text of one chunk; no text needs escaping in JSON."""
    return f"word{number % 10} "
