"""Runs a client's scenarios and prints what became of each, for the test that started the script.

It runs in the client's own environment, so it imports nothing but the standard library.
"""

import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

PICTURE = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
URL, TOKEN, TAG, SESSION = sys.argv[1:5]
"""The API's address, the token, what makes this run's questions its own, and a session's id."""


def ask(behaviour: str, scenario: str) -> str:
    """Return a question to which the stand-in behaves so."""
    return f"{behaviour} {scenario} {TAG}"


def report(scenarios: Mapping[str, Callable[[], dict[str, Any]]]) -> None:
    """Run every scenario; one that raises is reported too."""
    results = {}
    for name, scenario in scenarios.items():
        try:
            results[name] = scenario()
        except Exception as error:  # noqa: BLE001 - whatever a client does is a result
            results[name] = {"raised": f"{type(error).__name__}: {error}"}
    print(json.dumps(results))
