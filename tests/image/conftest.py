import shutil
from pathlib import Path

import pytest

from tests.image.engine import Engine
from tests.support.flows import write_chat_flow
from tests.support.serving import ROOT

MADE_OF = ["Dockerfile", ".dockerignore", "LICENSE", "README.md", "pyproject.toml", "requirements.lock"]
CANARY = "canary-that-must-not-fly"


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return Engine(tmp_path_factory.mktemp("engine"))


@pytest.fixture(scope="session")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a user builds from: this repository and flows in it, with what must not get into an image."""
    folder = tmp_path_factory.mktemp("context")
    for name in [*MADE_OF, "requirements-build.lock", "requirements-sbom.lock"]:
        shutil.copy2(ROOT / name, folder)
    for name in ("runtime", "flow"):
        shutil.copytree(ROOT / name, folder / name)
    flow = write_chat_flow(folder / "flows" / "chat", "${env:MODEL_URL}")
    for place in (folder, flow):
        (place / ".git").mkdir()
        (place / "__pycache__").mkdir()
        for secret in (".env", ".env.local", ".git/config", "__pycache__/old.pyc"):
            (place / secret).write_text(CANARY)
    return folder


@pytest.fixture(scope="session")
def image(engine: Engine, context: Path) -> str:
    """An image of the chat flow, whose model is where MODEL_URL says."""
    return built(engine, context, "chat")


def built(engine: Engine, context: Path, flow: str) -> str:
    """Build an image of a flow under `flows`, and return its name."""
    tag = f"localhost/flowpod-test:{flow.replace('/', '-')}"
    done = engine.build(context, tag, FLOW=f"flows/{flow}")
    assert done.returncode == 0, done.stdout
    return tag
