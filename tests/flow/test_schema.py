from typing import Any, get_args

from flowpod.flow.document.flow import flow_json_schema
from flowpod.flow.model import ValueType
from flowpod.nodes import KINDS


def object_schemas(schema: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {"FlowDocument": schema, **schema["$defs"]}


def test_schema_fits_its_own_references() -> None:
    schema = flow_json_schema(KINDS)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    text = str(schema)
    for name in schema["$defs"]:
        assert f"'#/$defs/{name}'" in text
    assert text.count("'$ref'") == text.count("'#/$defs/")
    for part in object_schemas(schema).values():
        assert part["type"] == "object"
        assert part["additionalProperties"] is False
        assert set(part.get("required", ())) <= set(part["properties"])


def test_schema_knows_every_kind_of_node_and_value() -> None:
    definitions = flow_json_schema(KINDS)["$defs"]
    kinds = {part["properties"]["type"]["const"] for part in definitions.values() if "after" in part["properties"]}
    assert kinds == set(KINDS)
    assert set(definitions["InputOptions"]["properties"]["type"]["enum"]) == set(get_args(ValueType))


def test_schema_has_the_keys_as_they_are_written() -> None:
    schema = flow_json_schema(KINDS)
    assert {"$schema", "inputs", "outputs", "nodes"} <= set(schema["properties"])
    assert schema["required"] == ["nodes"]
    assert set(schema["$defs"]["Activate"]["properties"]) == {"when", "is"}
