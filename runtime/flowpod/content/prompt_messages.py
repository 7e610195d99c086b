"""Splitting a rendered prompt into the messages of a chat request."""

import ast
import re
from collections.abc import Mapping
from typing import Any

from flowpod.content.images import TOKEN
from flowpod.content.jinja import role_lines, unmarked
from flowpod.errors import NodeError

# promptflow's roles: a line is one of them with a colon, as `system:` or `# system:` (promptflow, tools/common.py).
_ROLES = ("system", "user", "assistant", "function", "tool")


def _heading(name: str) -> str:
    # Possessive: to give white space back would take quadratic time, and never helps.
    return rf"\s*+#{{0,2}}[^\S\n]*+{name}[^\S\n]*+:[^\S\n]*+"


def _with_content(name: str) -> re.Pattern[str]:
    return re.compile(rf"\A{_heading(name)}\n\s*+(\S++)[^\S\n]*+\n{_heading('content')}\n?(.*)\Z", re.DOTALL)


# Headings at the start of a message, with or without `##`; the same text further down is content.
_NAMED = _with_content("name")
_TOOL_ANSWER = _with_content("tool_call_id")
_CALLS = re.compile(rf"\A{_heading('tool_calls')}\n\s*+(\[.*)\Z", re.DOTALL)
_IMAGE = re.compile(rf"!\[\s*image\s*\]\(({TOKEN.pattern})\)")


def split_messages(marked: str, images: Mapping[str, Mapping[str, Any]] | None = None) -> list[dict[str, Any]]:
    """Return OpenAI messages from the text of a prompt that still has its marks.

    A text without a role line is one user message. `images` maps the tokens of images to their content parts. Raises
    NodeError for text before the first role line, and for a function's or tool's answer without its headings.
    """
    heads = [line for line in role_lines(marked) if line[2].lower() in _ROLES]
    if not heads:
        return [{"role": "user", "content": _content(marked, images or {})}]
    if leading := unmarked(marked[: heads[0][0]]).strip():
        text = f"the prompt has text before its first role: {leading[:80]!r}; begin it with '# system:' or '# user:'"
        raise NodeError(text, code="prompt_error")
    ends = [start - 1 for start, _, _ in heads[1:]] + [len(marked)]
    return [
        _message(word.lower(), marked[head_end + 1 : end], images or {})
        for (_, head_end, word), end in zip(heads, ends, strict=True)
    ]


def _message(role: str, text: str, images: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    text = text.lstrip()
    if role == "tool":
        match = _TOOL_ANSWER.match(text)
        if match is None:
            raise _missing_headings("tool", "tool_call_id")
        return {"role": role, "tool_call_id": unmarked(match[1]), "content": _content(match[2], images)}
    if role == "assistant" and (calls := _tool_calls(text)) is not None:
        return {"role": role, "tool_calls": calls}
    if match := _NAMED.match(text):
        return {"role": role, "name": unmarked(match[1]), "content": _content(match[2], images)}
    if role == "function":
        raise _missing_headings("function", "name")
    return {"role": role, "content": _content(text, images)}


def _missing_headings(role: str, key: str) -> NodeError:
    text = f"a message of the role {role!r} needs the line '{key}:', its value, the line 'content:' and its content"
    return NodeError(text, code="prompt_error")


def _tool_calls(text: str) -> list[Any] | None:
    match = _CALLS.match(text)
    if match is None:
        return None
    try:
        calls = ast.literal_eval(unmarked(match[1]).strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return calls if isinstance(calls, list) else None


def _content(marked: str, images: Mapping[str, Mapping[str, Any]]) -> str | list[Mapping[str, Any]]:
    """Return the text, or with images one content part per line, as promptflow does; empty lines are dropped."""
    if not (images and any(match[0] in images for match in TOKEN.finditer(marked))):
        return unmarked(marked).strip()
    marked = _IMAGE.sub(lambda match: f"\n{match[1]}\n", marked)
    lines = [line for line in marked.strip().split("\n") if line.strip()]
    return [images.get(line.strip()) or {"type": "text", "text": unmarked(line)} for line in lines]
