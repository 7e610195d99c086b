"""Recorded runs when the database is unavailable or rejects them, instances fail, or runs are cancelled."""

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import orjson
import pytest

from flowpod.background.event_json import event_from_json, event_to_json, merge_chunks
from flowpod.background.queue import RunQueue
from flowpod.background.recording import AttachedRecording, BackgroundRecording
from flowpod.engine.events import NodeUpdated, RunOutput, RunStarted, RunTerminated, utc_now
from flowpod.engine.request import RunRequest
from flowpod.errors import ErrorInfo, TooManyRuns
from flowpod.jsonable import dumps
from flowpod.service import FlowService
from tests.support.background import PATIENCE_S, write_sleepy_flow
from tests.support.flows import SESSION, event_lines, run_error, service_of
from tests.support.mariadb import running_mariadb
from tests.support.waiting import until

_ACCEPTED = "SELECT taken FROM langstudio_run_cancel_test ORDER BY id"


async def submit(service: FlowService, **inputs: Any) -> str:
    request = RunRequest(inputs={"name": "a", **inputs}, session_id=SESSION, assigned=True)
    return (await service.start(request, BackgroundRecording({"kind": "run"}))).run_id


def queue_of(service: FlowService) -> RunQueue:
    assert service.run_queue is not None
    return service.run_queue


async def course(service: FlowService, run_id: str) -> list[str]:
    """Follow a run to its end; return its events as short lines."""
    async with asyncio.timeout(PATIENCE_S):
        pages = [page async for page in queue_of(service).reader.follow(run_id)]
    assert [number for page in pages for number, _ in page] == list(range(1, sum(map(len, pages)) + 1))
    return event_lines([event for page in pages for _, event in page])


@pytest.mark.fault("the database of a background run goes away")
async def test_a_run_continues_while_its_database_is_unavailable(tmp_path: Path) -> None:
    async with service_of(write_sleepy_flow(tmp_path / "flow"), data=tmp_path) as service:
        run_id = await submit(service, seconds=0.5)
        lock = sqlite3.connect(tmp_path / "chat_history.db", isolation_level=None)
        lock.execute("BEGIN IMMEDIATE")
        following = asyncio.create_task(course(service, run_id))
        await asyncio.sleep(6)  # longer than SQLite waits for its lock
        assert not following.done()
        lock.execute("COMMIT")
        lock.close()
        assert await following == [
            "started",
            "sleep Running",
            "sleep Completed",
            "out whole 'a' Finished",
            "terminated Completed",
        ]


@pytest.mark.fault("the database rejects a background run's events")
async def test_a_run_whose_events_are_rejected_fails_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with service_of(write_sleepy_flow(tmp_path / "flow"), data=tmp_path) as service:
        database = sqlite3.connect(tmp_path / "chat_history.db")
        database.execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON langstudio_run_event_test WHEN NEW.events LIKE '%poison%' "
            "BEGIN SELECT RAISE(FAIL, 'too large'); END"
        )
        database.commit()
        database.close()
        ids = [await submit(service, name=name) for name in ("good", "poison", "better")]
        courses = await asyncio.gather(*(course(service, run_id) for run_id in ids))
        reader = queue_of(service).reader
        assert [(await reader.read_run(run_id, None)).status for run_id in ids] == ["Completed", "Failed", "Completed"]
        error = run_error(await reader.read_events(ids[1]))
    assert [course[-1] for course in courses] == ["terminated Completed", "terminated Failed", "terminated Completed"]
    assert (error.code, "too large" in error.message) == ("events_not_stored", False)
    assert "its events cannot be stored: too large" in caplog.text
    assert "unavailable" not in caplog.text


@pytest.mark.fault("the database of a background run goes away")
async def test_runs_continue_while_their_database_rejects_writes(tmp_path: Path) -> None:
    async with service_of(write_sleepy_flow(tmp_path / "flow"), data=tmp_path) as service:
        run_id = await submit(service, seconds=0.5)
        database = sqlite3.connect(tmp_path / "chat_history.db")
        database.execute(
            "CREATE TRIGGER full BEFORE UPDATE ON langstudio_run_test BEGIN SELECT RAISE(FAIL, 'disk full'); END"
        )
        following = asyncio.create_task(course(service, run_id))
        await asyncio.sleep(4)
        assert not following.done()
        database.execute("DROP TRIGGER full")
        database.close()
        assert (await following)[-1] == "terminated Completed"


@pytest.mark.needs("mariadbd")
async def test_only_events_over_the_packet_limit_are_rejected(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with running_mariadb(tmp_path, "--max-allowed-packet=1M") as server:
        async with service_of(write_sleepy_flow(tmp_path / "flow"), database=server.new_database("d")) as service:
            ids = [await submit(service, name="x" * size) for size in (700_000, 2_000_000)]
            ends = [(await course(service, run_id))[-1] for run_id in ids]
    assert ends == ["terminated Completed", "terminated Failed"]
    assert "unavailable" not in caplog.text


async def test_a_bug_in_one_run_blocks_no_other(tmp_path: Path) -> None:
    async with service_of(write_sleepy_flow(tmp_path / "flow"), data=tmp_path) as service:
        ids = [await submit(service, seconds=1) for _ in range(3)]
        broken: Any = object()
        queue_of(service)._recorded[ids[1]].buffer.add_events([broken])
        ends = [(await course(service, run_id))[-1] for run_id in ids]
    assert ends == ["terminated Completed", "terminated Failed", "terminated Completed"]


async def test_the_renewal_of_leases_survives_an_invalid_row(tmp_path: Path) -> None:
    async with service_of(write_sleepy_flow(tmp_path / "flow"), data=tmp_path):
        pass
    database = sqlite3.connect(tmp_path / "chat_history.db", isolation_level=None)
    database.execute("PRAGMA writable_schema = ON")  # no value breaks the constraints of a table: so they are removed
    database.execute(
        "UPDATE sqlite_master SET sql = replace(sql, 'created_at DATETIME NOT NULL', 'created_at DATETIME')"
    )
    database.close()
    database = sqlite3.connect(tmp_path / "chat_history.db", isolation_level=None)
    database.execute(
        "INSERT INTO langstudio_run_test (run_id, session_id, fingerprint, facts, status, last_event, owner,"
        " lease_until, cancel_requested) VALUES ('r', 's', '', '{}', 'Queued', 0, 'dead', '2026-01-01 00:00:00.000000', 0)"
    )
    async with service_of(tmp_path / "flow", data=tmp_path, lease_s=0.3):
        await asyncio.sleep(0.8)  # it was found
        database.execute("UPDATE langstudio_run_test SET created_at = '2026-01-01 00:00:00.000000'")
        await until(lambda: database.execute("SELECT status FROM langstudio_run_test").fetchone() == ("Failed",))
    database.close()


async def test_an_instance_never_fails_its_own_runs_and_others_judge_by_renewals_alone(tmp_path: Path) -> None:
    flow = write_sleepy_flow(tmp_path / "flow")
    async with (
        service_of(flow, data=tmp_path, lease_s=1) as one,
        service_of(flow, data=tmp_path, lease_s=1) as two,
    ):
        ids = [await submit(service, seconds=4) for service in (one, two)]
        database = sqlite3.connect(tmp_path / "chat_history.db", isolation_level=None)
        for time in ("2026-01-01 00:00:00.000000", "2099-01-01 00:00:00.000000"):  # as if written by a wrong clock
            database.execute("UPDATE langstudio_run_test SET lease_until = ?", [time])
            await asyncio.sleep(0.5)
        database.close()
        assert [(await course(one, run_id))[-1] for run_id in ids] == ["terminated Completed"] * 2


async def test_a_run_whose_record_is_deleted_ends(tmp_path: Path) -> None:
    async with service_of(write_sleepy_flow(tmp_path / "flow"), data=tmp_path) as service:
        run_id = await submit(service, seconds=0.6)
        await until(lambda: run_id in service.runs)
        run = service.runs[run_id]
        database = sqlite3.connect(tmp_path / "chat_history.db")
        database.execute("DELETE FROM langstudio_run_test")
        database.commit()
        database.close()
        await run.finished()
        assert await course(service, run_id) in ([], ["started", "sleep Running"])


async def test_a_follower_beyond_the_last_event_is_disconnected_at_the_end(tmp_path: Path) -> None:
    async with service_of(write_sleepy_flow(tmp_path / "flow"), data=tmp_path) as service:
        run_id = await submit(service, seconds=0.5)
        async with asyncio.timeout(PATIENCE_S):
            assert [page async for page in queue_of(service).reader.follow(run_id, 1000)] == []
        assert not (await queue_of(service).reader.read_run(run_id, None)).active


async def test_a_run_whose_start_raises_an_unexpected_error_fails(tmp_path: Path) -> None:
    async with service_of(write_sleepy_flow(tmp_path / "flow"), data=tmp_path) as service:
        broken: Any = None
        request = RunRequest(inputs={"name": "a"}, session_id=SESSION, assigned=True, given=broken)
        with pytest.raises(TypeError):
            await service.start(request, AttachedRecording({"kind": "run"}))
        queued = (await service.start(request, BackgroundRecording({"kind": "run"}))).run_id
        assert await course(service, queued) == ["started", "terminated Failed"]
        database = sqlite3.connect(tmp_path / "chat_history.db")
        rows = database.execute("SELECT run_id FROM langstudio_run_test").fetchall()
        database.close()
        for (run_id,) in rows:
            await course(service, run_id)
            assert (await queue_of(service).reader.read_run(run_id, None)).status == "Failed"
    assert len(rows) == 2


async def test_requests_of_other_users_to_cancel_a_run_are_not_accepted(tmp_path: Path) -> None:
    async with service_of(write_sleepy_flow(tmp_path / "flow"), data=tmp_path) as service:
        run = await service.start(
            RunRequest(inputs={"name": "a", "seconds": 60}, session_id=SESSION, assigned=True, user_id="ann")
        )
        with sqlite3.connect(tmp_path / "chat_history.db") as database:  # one transaction: all are found at once
            database.executemany(
                "INSERT INTO langstudio_run_cancel_test (run_id, user_id, taken, asked_at)"
                " VALUES (?, ?, 0, '2099-01-01 00:00:00.000000')",
                [(run.id, user) for user in ("bob", "ann", "ann", None)],
            )
        async with asyncio.timeout(PATIENCE_S):
            await run.finished()
            while (accepted := database.execute(_ACCEPTED).fetchall()) == [(0,)] * 4:
                await asyncio.sleep(0.05)
        database.close()
    assert accepted == [(0,), (1,), (1,), (1,)]


async def test_cancel_requests_are_accepted_during_the_grace_period(tmp_path: Path) -> None:
    flow = write_sleepy_flow(tmp_path / "flow")
    async with service_of(flow, data=tmp_path) as one, service_of(flow, data=tmp_path) as two:
        background = await submit(one, seconds=60)
        foreground = await one.start(RunRequest(inputs={"name": "a", "seconds": 60}, session_id=SESSION))
        async with asyncio.timeout(PATIENCE_S):
            while background not in one.runs:
                await asyncio.sleep(0.01)
            finishing = asyncio.create_task(one.finish(grace_s=PATIENCE_S))
            await asyncio.sleep(0.1)  # it has begun to
            assert await two.cancel_run(background, None) is None
            assert await two.cancel_run(foreground.id, None) is None
            await finishing
        end = (await queue_of(two).reader.read_events(background))[-1]
    assert isinstance(end, RunTerminated)
    assert end.error is not None
    assert (end.status, end.error.message) == ("Canceled", "the run was cancelled: a client requested it")


@pytest.mark.fault("an instance with background runs is killed")
async def test_a_reader_learns_that_another_instance_failed_its_run(tmp_path: Path) -> None:
    flow = write_sleepy_flow(tmp_path / "flow")
    async with service_of(flow, data=tmp_path) as one, service_of(flow, data=tmp_path, lease_s=0.3) as two:
        request = RunRequest(inputs={"name": "a", "seconds": 3}, session_id=SESSION, assigned=True)
        run = await one.start(request, AttachedRecording({"kind": "run"}))  # its lease is renewed after 10 s
        seen = [event async for batch in run.events.batches() for event in batch]
        recorded = await queue_of(two).reader.read_run(run.id, None)
        stored = await queue_of(two).reader.read_events(run.id)
    assert [event_lines([events[-1]]) for events in (seen, stored)] == [["terminated Failed"]] * 2
    assert recorded.status == "Failed"
    assert run_error(stored).code == "instance_lost"


async def test_waiting_requests_have_a_limit_of_their_total_size(tmp_path: Path) -> None:
    async with service_of(write_sleepy_flow(tmp_path / "flow"), data=tmp_path, max_background_runs=1) as service:
        await submit(service, seconds=60)
        request = RunRequest(inputs={"name": "a"}, session_id=SESSION, assigned=True)
        large = BackgroundRecording({"kind": "run"}, content=bytes(100 * 1024**2))
        for _ in range(2):
            await service.start(request, large)
        with pytest.raises(TooManyRuns, match="256 MB"):
            await service.start(request, large)
        await submit(service)


def test_chunks_of_a_stream_are_merged_and_split_again() -> None:
    now = utc_now()

    def chunk(text: str, reasoning: str = "", output: str = "a") -> RunOutput:
        return RunOutput("r", "n", "i", output, text, True, "Streaming", reasoning, timestamp=now)

    last = RunOutput("r", "n", "i", "a", None, is_stream=True, status="Finished")
    chunks = [chunk(""), chunk("", "hm "), chunk("", "so"), chunk("x"), chunk("y"), chunk("z", output="b"), chunk("")]
    merged = merge_chunks([*chunks, last, last])
    assert [(event.delta, event.reasoning) for event in merged if isinstance(event, RunOutput)] == [
        ("", ""),
        ("", "hm so"),
        ("xy", ""),
        ("z", ""),
        ("", ""),
        (None, ""),
        (None, ""),
    ]
    stored = [event_from_json(orjson.loads(dumps(event_to_json(event)))) for event in merged]
    split = [chunk for event in stored if isinstance(event, RunOutput) for chunk in event.split_chunks()]
    assert split == [*chunks, last, last]
    assert merge_chunks([*merge_chunks(chunks[:3]), *chunks[3:]]) == merge_chunks(chunks)


def test_an_event_is_the_same_after_it_was_stored() -> None:
    error = ErrorInfo("m", "node_error", "n", "c")
    for event in (
        RunStarted("r", "0x1"),
        NodeUpdated("r", "n", "Failed", 1.5, error, {"a": [1]}, "d", "dn", "(E) x"),
        RunOutput("r", "n", "i", "a", None, is_stream=False, status="Finished", reasoning="t"),
        RunTerminated("r", "Failed", "0x1", error, {"total_tokens": 3}, "length", "deferred"),
        RunTerminated("r", "Completed", ""),
    ):
        assert event_from_json(orjson.loads(dumps(event_to_json(event)))) == event
