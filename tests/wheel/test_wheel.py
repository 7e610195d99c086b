"""The wheel, built and installed with the locked packages into an environment that has nothing else."""

import os
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest

from flowpod import __version__
from tests.support.serving import ROOT, environment, serving


def run(*command: str | Path, cwd: Path, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    [made] = folder.iterdir()
    return made


@pytest.fixture(scope="session")
def program(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Sequence[str]:
    """The command `flowpod` of the installed wheel."""
    folder = tmp_path_factory.mktemp("installed")
    run(sys.executable, "-m", "venv", folder, cwd=folder)
    install: list[str | Path] = [folder / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check"]
    run(*install, "--require-hashes", "-r", ROOT / "requirements.lock", cwd=folder, env=dict(os.environ))
    run(*install, "--no-deps", "--no-index", wheel, cwd=folder)
    return [str(folder / "bin" / "flowpod")]


def test_the_wheel_has_the_program_and_its_data(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert wheel.name == f"flowpod-{__version__}-py3-none-any.whl"
    assert {name.partition("/")[0] for name in names} == {"flowpod", f"flowpod-{__version__}.dist-info"}
    sources = (ROOT / "runtime").rglob("*")
    expected = {str(path.relative_to(ROOT / "runtime")) for path in sources if path.is_file()}
    assert names >= {
        name for name in expected if "__pycache__" not in name and ".egg-info" not in name and "flowpod/" in name
    }
    assert names >= {"flowpod/py.typed", "flowpod/api/docs/openapi.yaml", "flowpod/compat/imports/promptflow/core.py"}


def test_the_installed_wheel_checks_and_serves_the_packaged_flow(program: Sequence[str], tmp_path: Path) -> None:
    printed = run(*program, "check", "flow", cwd=ROOT, env=environment(tmp_path))
    assert printed.splitlines()[-1] == "flow: no problems"
    with serving(ROOT / "flow", tmp_path, program=program) as served:
        answer = httpx.post(served.url, json={"question": "How do I rotate a token?"})
    assert "Add the new token to FLOWPOD_TOKENS" in answer.json()["answer"]
