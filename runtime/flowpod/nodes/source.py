"""What the node kinds of Prompt Flow have in common: a file with their code or prompt."""

from flowpod.flow.document.base import PromptFlowOptions
from flowpod.flow.node_check import NodeCheck
from flowpod.flow.paths import kind_of, leads_out


def check_source(options: PromptFlowOptions, check: NodeCheck, *, takes_overrides: bool = False) -> None:
    """Report a source file that is missing or lies outside the flow's folder, and overrides where there can be none."""
    name, path, at = check.node.name, options.source.path, ("source", "path")
    if options.source.type != "package":
        if not path:
            check.error(at, f"node {name!r} names no file")
        elif kind_of(check.folder / path) != "file":
            check.error(at, f"there is no file {path!r} in the flow's folder")
        elif leads_out(path):
            check.error(at, f"{path!r} lies outside the flow's folder")
    if options.overrides and not takes_overrides:
        check.error(("overrides",), f"node {name!r}: only llm nodes take parameters from a request")
