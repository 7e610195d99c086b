"""`node_variants`: several versions of a node, of which the default one is served."""

from collections.abc import Hashable
from typing import Any

from flowpod.flow.document.located_yaml import Key, Source


def with_default_variants(source: Source) -> Any:
    """Return the content of a flow's file with default variants in place of nodes; problems are added to `source`."""
    return _with_variants(source, (), source.content)


def _with_variants(source: Source, key: Key, content: Any) -> Any:
    """Return the mapping at `key`, a flow, a batch or a loop, with the nodes in it replaced."""
    if not (isinstance(content, dict) and isinstance(content.get("nodes"), list)):
        return content
    nodes = []
    for index, node in enumerate(content["nodes"]):
        place = (*key, "nodes", index)
        if isinstance(node, dict) and node.get("use_variants") is True:
            nodes.append(_variant(source, place, node))
        else:
            nodes.append(_with_variants(source, place, node))
    return {**content, "nodes": nodes}


def _variant(source: Source, place: Key, node: dict[str, Any]) -> dict[str, Any]:
    name, key = node.get("name"), (*place, "use_variants")
    group = _at(source.content, "node_variants", name)
    if not isinstance(group, dict):
        source.add(key, f"node {name!r} has no variants under node_variants")
        return node
    chosen = group.get("default_variant_id")
    found = _at(group, "variants", chosen, "node")
    if not isinstance(found, dict):
        variants = group.get("variants")
        known = ", ".join(map(str, variants if isinstance(variants, dict) else ())) or "none"
        text = f"there is no variant {chosen!r} with a node; there are {known}"
        source.add(("node_variants", str(name), "default_variant_id"), text)
        return node
    origin: Key = ("node_variants", str(name), "variants", str(chosen), "node")
    source.move(place, origin)
    return {**found, "name": name}


def _at(value: Any, *keys: Any) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) and isinstance(key, Hashable) else None
    return value
