"""No turn is lost and none is doubled, whatever goes away in the middle."""

import asyncio
import random
import signal
from pathlib import Path

import pytest

from tests.bench.soak import soak_mysql, soak_sqlite
from tests.support.conversations import Talkers, missing_turns, write_talking_flow
from tests.support.serving import serving


def logs_in(folder: Path) -> str:
    return "\n".join(log.read_text()[-9000:] for log in folder.rglob("serve.log"))


@pytest.mark.parametrize("database", ["sqlite", pytest.param("mysql", marks=pytest.mark.needs("mariadbd"))])
@pytest.mark.fault("the database goes away for a while")
async def test_a_database_that_goes_away_for_a_while_loses_nothing(tmp_path: Path, database: str) -> None:
    soak = await (soak_mysql if database == "mysql" else soak_sqlite)(tmp_path, sessions=20, seconds=5)
    assert soak.missing == []
    assert soak.talk.count > 20
    assert set(soak.talk.problems) <= {"503"}, logs_in(tmp_path)
    if database == "sqlite":  # readers of a locked file are not held up, so turns end while it is
        assert soak.talk.deferred


@pytest.mark.fault("a process is killed (kill -9)")
async def test_a_killed_process_has_stored_every_turn_whose_end_was_seen(tmp_path: Path, history_url: str) -> None:
    flow = write_talking_flow(tmp_path / "flow")
    for _ in range(3):
        with serving(flow, tmp_path, FLOWPOD_HISTORY=history_url) as served:
            talkers = Talkers([served.url], 30)
            talking = asyncio.create_task(talkers.run())
            async with asyncio.timeout(30):
                while talkers.talk.count < 30:
                    await asyncio.sleep(0.01)
            await asyncio.sleep(random.uniform(0, 0.3))
            served.process.send_signal(signal.SIGKILL)
            talkers.stop()
            talk = await talking
        assert not [question for question in missing_turns(talk, history_url) if question not in talk.deferred]


async def test_workers_share_a_file_and_lose_nothing(tmp_path: Path) -> None:
    history = f"sqlite:///{tmp_path / 'history.db'}"
    with serving(write_talking_flow(tmp_path / "flow"), tmp_path, "--workers", "3", FLOWPOD_HISTORY=history) as served:
        talkers = Talkers([served.url], 30)
        talking = asyncio.create_task(talkers.run())
        async with asyncio.timeout(30):
            while talkers.talk.count < 150:
                await asyncio.sleep(0.01)
        talkers.stop()
        talk = await talking
        assert served.stop() == 0
    assert missing_turns(talk, history) == []
    assert talk.problems == {}
