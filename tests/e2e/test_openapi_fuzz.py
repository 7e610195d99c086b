"""What schemathesis makes of the service's own description: requests of every shape, right and wrong, in any order."""

import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.protocols.http.test_openapi import DAG
from tests.support.flows import write_flow
from tests.support.serving import ROOT, environment, serving

# `make fuzz` sets more examples, and other ones each time.
EXAMPLES = os.environ.get("FLOWPOD_FUZZ_EXAMPLES", "")


@pytest.mark.fault("requests of every shape")
@pytest.mark.parametrize("token", ["", "t"], ids=["open", "token"])
def test_the_service_keeps_to_its_description(tmp_path: Path, token: str, figures: dict[str, object]) -> None:
    with serving(write_flow(tmp_path / "flow", DAG), tmp_path, FLOWPOD_TOKENS=token) as served:
        paths = httpx.get(f"{served.url}/openapi.json").json()["paths"].values()
        count = sum(method != "parameters" for item in paths for method in item)
        command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"{served.url}/openapi.json"]
        command += ["--checks", "all", "--continue-on-failure", "--no-color"]
        command += ["--max-examples", EXAMPLES] if EXAMPLES else ["--max-examples", "3", "--seed", "1"]
        command += ["--header", f"Authorization: Bearer {token}"] if token else []
        settings = {"SCHEMATHESIS_HOOKS": "tests.support.openapi_hooks", "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            command, cwd=tmp_path, env=environment(tmp_path, **settings), capture_output=True, text=True
        )
        assert served.process.poll() is None
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-8000:]
    assert f"Tested: {count}\n" in done.stdout
    requests = re.findall(r"(\d+) generated, \d+ passed", done.stdout)[0]
    figures[f"requests {'with' if token else 'without'} a token"] = requests
