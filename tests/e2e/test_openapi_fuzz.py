"""What schemathesis makes of the service's own description: requests of every shape, right and wrong."""

import subprocess
import sys
from pathlib import Path

import httpx

from tests.protocols.http.test_openapi import DAG
from tests.support.flows import write_flow
from tests.support.serving import environment, serving

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


def test_no_request_meets_a_bug_or_an_undocumented_status(tmp_path: Path) -> None:
    with serving(write_flow(tmp_path / "flow", DAG), tmp_path, FLOWPOD_TOKENS="t") as served:
        paths = httpx.get(f"{served.url}/openapi.json").json()["paths"].values()
        count = sum(method != "parameters" for item in paths for method in item)
        command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"{served.url}/openapi.json"]
        options = ["--checks", CHECKS, "--max-examples", "5", "--no-color", "--header", "Authorization: Bearer t"]
        done = subprocess.run(
            [*command, *options], cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, timeout=300
        )
        assert served.process.poll() is None
    assert done.returncode == 0, done.stdout[-6000:]
    assert f"Tested: {count}\n" in done.stdout
