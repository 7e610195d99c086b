"""What gets into an image, what does not, and what does not become one."""

import io
import json
import re
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowpod import __version__
from tests.image.conftest import CANARY, built
from tests.image.engine import Engine
from tests.support.flows import write_chat_flow, write_flow
from tests.support.serving import ROOT

NODE = """
environment: {python_requirements_txt: needs/all.txt}
outputs:
  out: {type: string, reference: "${shout.output}"}
nodes:
- {name: shout, type: python, source: {path: shout.py}}
"""
CODE = """
import six
from promptflow.core import tool

@tool
def shout():
    return six.__version__
"""


def layers(engine: Engine, image: str) -> list[str]:
    return list(engine.inspect(image)["RootFS"]["Layers"])


def files(archive: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the path and content of every file in every layer of a saved image."""
    with tarfile.open(archive) as outer:
        manifest = json.load(outer.extractfile("manifest.json") or io.BytesIO())
        for layer in manifest[0]["Layers"]:
            with tarfile.open(fileobj=outer.extractfile(layer)) as inner:
                for member in inner:
                    content = inner.extractfile(member) if member.isfile() else None
                    yield member.name, content.read() if content else b""
        config = outer.extractfile(manifest[0]["Config"])
        yield "config", config.read() if config else b""


def test_no_layer_holds_a_secret_a_cache_or_a_tool(engine: Engine, image: str, tmp_path: Path) -> None:
    engine.call("save", "--output", str(tmp_path / "image.tar"), image)
    own = [path.read_bytes() for path in engine.secrets]
    own += [address for text in own for address in re.findall(rb"(?m)^[\w-]+ = (\S+://\S+)$", text)]
    names = []
    for name, content in files(tmp_path / "image.tar"):
        names.append(name)
        assert CANARY.encode() not in content, name
        assert not any(secret in content for secret in own), name
    assert "app/flow/flow.dag.yaml" in names
    for forbidden in (
        "run/secrets",
        "root/.cache",
        "root/.pip",
        "root/.config",
        "src/",
        "context",
        "build/",
        "app/flow/__pycache__",
    ):
        assert not [name for name in names if name.startswith(forbidden)], forbidden
    tools = engine.once(image, command=["-c", "which pip pip3 gcc cc make git curl; true"], entrypoint="sh")
    assert tools == ""
    probe = (
        "import importlib.util as u; print([m for m in ('pip', 'ensurepip', 'setuptools', 'wheel') if u.find_spec(m)])"
    )
    assert engine.once(image, command=["-c", probe], entrypoint="python") == "[]\n"


def test_what_is_installed_is_compiled(engine: Engine, image: str) -> None:
    code = (
        "import pathlib, sysconfig, sys; "
        "roots = [pathlib.Path('/app/venv'), pathlib.Path('/app/flowpod')]; "
        "files = [f for r in roots for f in r.rglob('*.py')]; "
        "missing = [f for f in files if not list((f.parent / '__pycache__').glob(f.stem + '.*.pyc'))]; "
        "print(len(files) > 1000, missing)"
    )
    assert engine.once(image, command=["-c", code], entrypoint="python") == "True []\n"


def test_a_changed_flow_changes_the_last_layers_only(engine: Engine, context: Path, image: str) -> None:
    flow = shutil.copytree(context / "flows" / "chat", context / "flows" / "changed")
    (flow / "README.md").write_text("More.")
    before, after = layers(engine, image), layers(engine, built(engine, context, "changed"))
    same = sum(one == other for one, other in zip(before, after, strict=True))
    assert before[:same] == after[:same]
    assert len(before) - same == 2  # the flow, and what its check leaves


def test_its_labels_and_defaults(engine: Engine, image: str) -> None:
    config = engine.inspect(image)["Config"]
    assert config["Labels"]["org.opencontainers.image.version"] == __version__
    assert config["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert config["User"] == "10001:0"
    assert list(config["ExposedPorts"]) == ["8080/tcp"]
    assert list(config["Volumes"]) == ["/langstudio/flow"]
    assert (config["Entrypoint"], config["Cmd"][:2]) == (["flowpod"], ["serve", "/app/flow"])
    assert config["Healthcheck"]["Test"][0] == "CMD"


def test_its_bill_of_materials_lists_every_package(engine: Engine, image: str) -> None:
    bom = json.loads(engine.once(image, entrypoint="cat", command=["/app/sbom.cdx.json"]))
    assert (bom["bomFormat"], bom["specVersion"]) == ("CycloneDX", "1.6")
    listed: dict[str, set[str]] = {}
    for component in bom["components"]:
        # Flowpod itself has no address: it is built here.
        kind = component.get("purl", "pkg:pypi/flowpod").removeprefix("pkg:").partition("/")[0]
        listed.setdefault(kind, set()).add(f"{component['name']} {component['version']}")
    code = "import importlib.metadata as m; [print(d.name, d.version) for d in m.distributions()]"
    assert listed["pypi"] == lines(engine.once(image, entrypoint="python", command=["-c", code]))
    assert {f"flowpod {__version__}", "python"} <= listed["pypi"] | {item.split()[0] for item in listed["generic"]}
    query = ["-W", "-f", "${Package} ${Version}\n"]
    assert listed["deb"] == lines(engine.once(image, entrypoint="dpkg-query", command=query))


def lines(text: str) -> set[str]:
    return set(text.splitlines())


def test_the_packages_a_flow_names_are_installed_by_the_lock(engine: Engine, context: Path) -> None:
    write_flow(
        context / "flows" / "packages",
        NODE,
        {
            "shout.py": CODE,
            "needs/all.txt": "promptflow  # which Flowpod stands in for\n-r more.txt\npydantic>=2\n",
            "needs/more.txt": "six==1.16.0\n",
        },
    )
    image = built(engine, context, "packages")
    assert engine.once(image, command=["run", "/app/flow"]).strip() == "1.16.0"
    listed = engine.once(image, command=["-c", "ls /app/packages/lib/*/*-packages"], entrypoint="sh").split()
    assert {name for name in listed if name.endswith(".dist-info")} == {"six-1.16.0.dist-info"}
    # The same requirements, an edited flow: nothing is installed again.
    (context / "flows" / "packages" / "shout.py").write_text(CODE + "\n# edited\n")
    assert engine.build(context, "localhost/flowpod-test:packages", FLOW="flows/packages").returncode == 0
    assert layers(engine, image)[:-2] == layers(engine, "localhost/flowpod-test:packages")[:-2]


def test_connections_beside_the_flow_come_along(engine: Engine, context: Path) -> None:
    flow = write_chat_flow(context / "flows" / "apart" / "flow", "unused")
    (flow / "connections.yaml").unlink()
    connection = "name: model\ntype: open_ai\napi_key: ${env:KEY}\n"
    write_flow(flow.parent / "connections", "", {"model.yaml": connection})
    image = built(engine, context, "apart/flow")
    assert engine.once(image, command=["/app/connections/model.yaml"], entrypoint="cat") == connection


def test_a_package_that_conflicts_with_the_lock_is_named_with_it(engine: Engine, context: Path) -> None:
    lock = (ROOT / "requirements.lock").read_text()
    locked = next(line.split(" ")[0] for line in lock.splitlines() if line.startswith("pydantic=="))
    write_flow(context / "flows" / "conflict", NODE, {"shout.py": CODE, "needs/all.txt": "pydantic<2\n"})
    done = engine.build(context, "localhost/flowpod-test:conflict", FLOW="flows/conflict")
    assert done.returncode != 0
    assert "The user requested pydantic<2" in done.stdout
    assert f"The user requested (constraint) {locked}" in done.stdout


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("broken", NODE.replace("shout.output", "shoot.output"), "there is no node 'shoot'"),
        ("without-requirements", NODE, "needs/all.txt: the requirements cannot be read"),
        ("nowhere", "", "flow.dag.yaml: cannot be read"),
    ],
)
def test_a_broken_flow_becomes_no_image(engine: Engine, context: Path, name: str, text: str, message: str) -> None:
    files = {"shout.py": CODE.replace("import six", "class six: __version__ = ''")}
    if name == "broken":
        files["needs/all.txt"] = ""
    if name != "nowhere":
        write_flow(context / "flows" / name, text, files)
    done = engine.build(context, f"localhost/flowpod-test:{name}", FLOW=f"flows/{name}")
    assert done.returncode != 0
    assert message in done.stdout
