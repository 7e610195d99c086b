"""From a rendered prompt to the messages of a chat request."""

import re

from runtime.errors import NodeError
from runtime.nodes.templates import unmarked

# promptflow's: `system:`, `# system:` and so on, alone on a line (promptflow, tools/common.py).
_ROLE = re.compile(r"(?im)^\s*#?\s*(system|user|assistant|function|tool)\s*:\s*(?:\n|\Z)")


def split_messages(marked: str) -> list[dict[str, str]]:
    """Return OpenAI messages from the text of a prompt, marks still in it.

    A text without any role is one user message. Raises NodeError when text stands before the first role.
    """
    parts = _ROLE.split(marked)
    before = unmarked(parts[0]).strip()
    if len(parts) == 1:
        return [{"role": "user", "content": before}]
    if before:
        raise NodeError(
            f"the prompt has text before its first role: {before[:80]!r}; begin it with '# system:' or '# user:'",
            code="prompt_error",
        )
    return [
        {"role": role.lower(), "content": unmarked(content).strip()}
        for role, content in zip(parts[1::2], parts[2::2], strict=True)
    ]
