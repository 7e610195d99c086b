"""The two tables that say most: the goals, and what each part of a request costs."""

from collections.abc import Iterable, Sequence
from typing import Any

from tests.bench import ablation
from tests.bench.goals import HEAD, goals


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines) + "\n"


def tables(found: dict[str, Any]) -> list[tuple[str, Sequence[str], Sequence[Sequence[str]]]]:
    """Return title, head and rows of each table that `found`, the contents of the result files by name, has rows for."""
    both: list[tuple[str, Sequence[str], Sequence[Sequence[str]]]] = [
        ("Goals", HEAD, [goal.row() for goal in goals(found)]),
        ("What each part costs", ablation.HEAD, ablation.rows(found)),
    ]
    return [one for one in both if one[2]]
