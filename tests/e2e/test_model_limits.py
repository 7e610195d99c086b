"""Memory and CPU time of the served command while its model sends without end."""

import os
import sys
from pathlib import Path

import httpx
import pytest

from tests.support.flows import write_chat_flow
from tests.support.model_server import ModelServer
from tests.support.serving import Served, serving

MAX_MB = 160
MAX_CPU_S = 20.0


def most_resident_mb(served: Served) -> int:
    status = Path(f"/proc/{served.process.pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) // 1024


def cpu_s(served: Served) -> float:
    fields = Path(f"/proc/{served.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.fault("a model sends without end")
@pytest.mark.parametrize(
    ("model", "stream", "code"),
    [
        ("large-json", False, "model_response_too_large"),
        ("long-line", True, "model_response_too_large"),
        ("long-event", True, "model_response_too_large"),
        ("compressed", False, "model_response_too_large"),
        ("large-error", False, "model_error"),
        ("endless-reasoning", True, "output_too_large"),
    ],
)
def test_a_model_that_sends_without_end_costs_little(
    tmp_path: Path, model_server: ModelServer, model: str, stream: bool, code: str, figures: dict[str, object]
) -> None:
    flow = write_chat_flow(tmp_path / "flow", model_server.url, model)
    with serving(flow, tmp_path) as served:
        httpx.post(served.url, json={"nothing": 1})
        before, started = most_resident_mb(served), cpu_s(served)
        headers = {"Accept": "text/event-stream" if stream else "application/json"}
        response = httpx.post(served.url, json={"question": "hi"}, headers=headers, timeout=60)
        more, spent = most_resident_mb(served) - before, cpu_s(served) - started
        figures |= {f"more MB resident ({model})": more, f"CPU s ({model})": round(spent, 2)}
        assert response.status_code == (200 if stream else 424)
        assert f'"{code}"' in response.text
        assert more < MAX_MB
        assert spent < MAX_CPU_S
        assert httpx.get(f"{served.url}/readyz").status_code == 200
