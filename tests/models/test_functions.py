"""Tools, and functions put into their form."""

from flowpod.models.tool_calls import with_tools

TOOL = {"type": "function", "function": {"name": "older"}}
NEWER = {"type": "function", "function": {"name": "newer"}}


def test_functions_come_after_the_tools() -> None:
    given = {"tools": [TOOL], "functions": [{"name": "newer"}], "function_call": {"name": "newer"}, "n": 1}
    assert with_tools(given) == {"tools": [TOOL, NEWER], "tool_choice": NEWER, "n": 1}


def test_without_functions_there_is_nothing_to_choose() -> None:
    assert with_tools({"functions": [], "function_call": "auto"}) == {}
