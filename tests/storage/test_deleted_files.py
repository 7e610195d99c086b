"""Files and tables that are deleted while the service uses them."""

import shutil
import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import text

from flowpod.background.recording import BackgroundRecording
from flowpod.engine.request import RunRequest
from flowpod.storage.database import Database
from flowpod.storage.dialects import dialect_of
from flowpod.storage.sessions.service import HistoryService
from tests.support.background import write_sleepy_flow
from tests.support.flows import SESSION, service_of
from tests.support.history import history_turn, opened, turn, turns_of
from tests.support.waiting import until

DELETED = "the history's file, folder or tables are deleted while in use"
FILE = "chat_history.db"


def delete_file(data: Path) -> None:
    (data / FILE).unlink()


def delete_file_and_log(data: Path) -> None:
    for file in data.glob(f"{FILE}*"):
        file.unlink()


def delete_folder(data: Path) -> None:
    shutil.rmtree(data)


def replace_by_empty_file(data: Path) -> None:
    (data / "new").touch()
    (data / "new").replace(data / FILE)


@pytest.mark.fault(DELETED)
@pytest.mark.parametrize("delete", [delete_file, delete_file_and_log, delete_folder, replace_by_empty_file])
async def test_a_deleted_file_is_created_again_and_the_log_says_so(
    tmp_path: Path, delete: object, caplog: pytest.LogCaptureFixture
) -> None:
    data = tmp_path / "data"
    service = HistoryService(
        Database(dialect_of(f"sqlite:///{data / FILE}"), "svc"), write_timeout_s=5, single_turn_days=1
    )
    await service.open()
    assert await service.store_turn(turn(run="r1"))
    assert callable(delete)
    delete(data)
    assert await service.store_turn(turn(run="r2"))
    assert (await turns_of(service, 1)).history == (history_turn("r2"),)
    await service.close()
    what = "replaced" if delete is replace_by_empty_file else "deleted"
    assert caplog.text.count(f"{FILE} was {what} while it was in use") == 1
    with sqlite3.connect(data / FILE) as database:
        assert database.execute("SELECT run_id FROM langstudio_chat_history_svc").fetchall() == [("r2",)]
    database.close()


@pytest.mark.fault(DELETED)
async def test_a_restored_file_is_read_at_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / FILE}"
    async with opened(f"sqlite:///{tmp_path / 'backup.db'}") as (_, store):
        await store.add_turn(turn(run="old"))
    service = HistoryService(Database(dialect_of(url), "svc"), write_timeout_s=5, single_turn_days=1)
    await service.open()
    assert await service.store_turn(turn(run="r1"))
    (tmp_path / "backup.db").replace(tmp_path / FILE)
    assert (await service.read_state("s", None, 9)).history == (history_turn("old"),)
    assert await service.store_turn(turn(run="r2"))
    assert (await service.read_state("s", None, 9)).history == (history_turn("old"), history_turn("r2"))
    await service.close()


@pytest.mark.fault(DELETED)
async def test_a_service_that_nobody_uses_notices_too(tmp_path: Path) -> None:
    async with service_of(write_sleepy_flow(tmp_path / "flow"), data=tmp_path / "data"):
        delete_folder(tmp_path / "data")
        await until((tmp_path / "data" / FILE).exists)


@pytest.mark.fault(DELETED)
async def test_dropped_tables_are_created_again(history_url: str) -> None:
    database = Database(dialect_of(history_url), "svc")
    service = HistoryService(database, write_timeout_s=5, single_turn_days=1)
    await service.open()
    for dropped in ("turns", "sessions", "migrations"):
        assert await service.store_turn(turn(run=f"before {dropped}"))
        name = getattr(database.schema, dropped).name

        async def drop(connection: object, name: str = name) -> None:
            await connection.execute(text(f"DROP TABLE {name}"))  # type: ignore[attr-defined]

        await database.transact(drop)
        assert await service.store_turn(turn(dropped, f"after {dropped}"))
        assert (await service.read_state(dropped, None, 99)).history[-1] == history_turn(f"after {dropped}")
    await service.close()


@pytest.mark.fault(DELETED)
async def test_a_background_run_whose_record_is_deleted_with_the_file_ends(tmp_path: Path) -> None:
    async with service_of(write_sleepy_flow(tmp_path / "flow"), data=tmp_path) as service:
        request = RunRequest(inputs={"name": "a", "seconds": 60}, session_id=SESSION, assigned=True)
        run_id = (await service.start(request, BackgroundRecording({"kind": "run"}))).run_id
        await until(lambda: run_id in service.runs)
        delete_file(tmp_path)
        await until(lambda: run_id not in service.runs)
        again = (
            await service.start(
                RunRequest(inputs={"name": "b"}, session_id=SESSION, assigned=True),
                BackgroundRecording({"kind": "run"}),
            )
        ).run_id
        assert service.run_queue is not None
        async for _ in service.run_queue.reader.follow(again):
            pass
        assert (await service.run_queue.reader.read_run(again, None)).status == "Completed"
