"""The commands of docs/operating.md that back a MySQL history up, under load, and bring it back."""

import subprocess
import threading
from pathlib import Path

import httpx
import pytest
from sqlalchemy.engine import make_url

from tests.support.documents import blocks
from tests.support.flows import SESSION
from tests.support.mariadb import MariaDB
from tests.support.serving import ROOT, serving


def run(command: str, address: str, folder: Path) -> None:
    """Run a command of the page, for the database at `address`."""
    url = make_url(address)
    command = command.replace("--host=mysql.example.com", f"--host={url.host} --port={url.port}")
    command = command.replace("--password flows", f"--password='{url.password}' {url.database}")
    done = subprocess.run(["bash", "-ec", command], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.needs("mariadbd")
@pytest.mark.needs("mysqldump")
def test_a_mysql_history_in_use_can_be_backed_up(
    tmp_path: Path, chat_flow: Path, mariadb: MariaDB, mysql_url: str
) -> None:
    dump, restore = [
        text for kind, text in blocks(ROOT / "docs" / "operating.md") if "flows.sql" in text and kind == "sh"
    ]
    with serving(chat_flow, tmp_path, FLOWPOD_HISTORY=mysql_url) as served:
        for number in range(3):
            body, headers = {"question": str(number)}, {"Chat-Session-Id": SESSION}
            httpx.post(served.url, json=body, headers=headers).raise_for_status()
        over = threading.Event()

        def go_on() -> None:
            while not over.is_set():
                httpx.post(served.url, json={"question": "hi"}, headers={"Chat-Session-Id": "o" * 32})

        other = threading.Thread(target=go_on)
        other.start()
        run(dump, mysql_url, tmp_path)
        over.set()
        other.join()
    copy = mariadb.new_database(f"{make_url(mysql_url).database}_copy")
    run(restore, copy, tmp_path)
    with serving(chat_flow, tmp_path, FLOWPOD_HISTORY=copy) as served:
        turns = httpx.get(f"{served.url}/chat/sessions/{SESSION}/turns").json()["data"]
        assert [turn["inputs"]["question"] for turn in turns] == ["0", "1", "2"]
        httpx.post(served.url, json={"question": "3"}, headers={"Chat-Session-Id": SESSION}).raise_for_status()
