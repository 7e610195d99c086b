"""The names that flows import, `langstudio` and `promptflow`, for where those packages are not installed."""

import sys
from pathlib import Path

_IMPORTS = str(Path(__file__).parent / "imports")


def install() -> None:
    """Make `langstudio` and `promptflow` importable; packages that are installed under these names go first."""
    if _IMPORTS not in sys.path:
        sys.path.append(_IMPORTS)
