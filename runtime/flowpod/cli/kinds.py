"""The index of the node kinds, in Markdown: `docs/nodes/README.md`."""

from typing import Any

from flowpod.nodes import KINDS
from flowpod.nodes.kind import Kind, Streams

_STREAMS: dict[Streams, str] = {"no": "no", "perhaps": "where its code does", "yes": "yes", "unread": "yes"}


def kinds_markdown() -> str:
    """Return a table of the node kinds, one row for each."""
    rows = "\n".join(_row(kind) for kind in KINDS.values())
    return f"""# Node kinds

The value of `type` in `flow.dag.yaml` is one of these. The keys that all kinds share are in
[flow-format.md](../flow-format.md). `flowpod kinds` prints this page, `flowpod schema` the JSON Schema of every key.

| kind | what it does | streams | DashScope's node type | span |
|---|---|---|---|---|
{rows}
"""


def _row(kind: Kind[Any]) -> str:
    summary = (kind.options.__doc__ or "").strip().splitlines()[0]
    extra = f" Needs `flowpod[{kind.extra}]`." if kind.extra else ""
    name = f"[`{kind.name}`]({kind.name}.md)"
    return f"| {name} | {summary}{extra} | {_STREAMS[kind.streams]} | `{kind.dashscope_type}` | `{kind.span_kind}` |"
