"""From a rendered prompt to the messages of a chat request."""

from runtime.errors import NodeError
from runtime.nodes.templates import role_word, unmarked

# promptflow's: `system:`, `# system:` and so on, alone on a line (promptflow, tools/common.py).
_ROLES = ("system", "user", "assistant", "function", "tool")


def split_messages(marked: str) -> list[dict[str, str]]:
    """Return OpenAI messages from the text of a prompt, marks still in it.

    A text without any role is one user message. Raises NodeError when text stands before the first role.
    """
    before: list[str] = []
    messages: list[tuple[str, list[str]]] = []
    # Line by line: a pattern over the whole text takes far more than linear time on lines of white space.
    for line in marked.split("\n"):
        word = role_word(line)
        if word is not None and word.lower() in _ROLES:
            messages.append((word.lower(), []))
        else:
            (messages[-1][1] if messages else before).append(line)
    opening = unmarked("\n".join(before)).strip()
    if not messages:
        return [{"role": "user", "content": opening}]
    if opening:
        raise NodeError(
            f"the prompt has text before its first role: {opening[:80]!r}; begin it with '# system:' or '# user:'",
            code="prompt_error",
        )
    return [{"role": role, "content": unmarked("\n".join(lines)).strip()} for role, lines in messages]
