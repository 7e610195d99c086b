"""The data folder of a running service is deleted: workers, traces and metrics go on."""

import shutil
from pathlib import Path

import httpx
import pytest

from tests.support.serving import serving, turns


@pytest.mark.fault("the history's file, folder or tables are deleted while in use")
def test_workers_go_on_after_their_data_folder_is_deleted(tmp_path: Path, chat_flow: Path) -> None:
    with serving(chat_flow, tmp_path, "--workers", "3") as served:

        def ask(count: int) -> None:
            for _ in range(count):  # each request on a connection of its own, so that every worker gets some
                answer = httpx.post(served.url, json={"question": "hi"}, timeout=30)
                assert (answer.status_code, "x-flowpod-history" in answer.headers) == (200, False), answer.text

        ask(10)
        shutil.rmtree(tmp_path / "data")
        ask(30)
        assert turns(tmp_path) == ["Completed"] * 30
        assert "chat_history.db was deleted while it was in use" in served.log
        assert "Traceback" not in served.log
        assert len(httpx.get(f"{served.url}/traces").json()["data"]) > 0
        assert "flowpod_run_duration_seconds_count" in httpx.get(f"{served.url}/metrics").text
        assert served.stop() == 0
