"""Many requests at once on a slow processor: no answer may say that the history is unavailable."""

import asyncio
import json
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, repeat
from pathlib import Path

import httpx
from sqlalchemy import select

from flowpod.storage.database import Database
from flowpod.storage.dialects import dialect_of
from tests.support.flows import write_chat_flow
from tests.support.model_server import ModelServer
from tests.support.serving import Served, serving

REQUESTS = {"sqlite": 256, "mysql": 64}
"""By the database. Requests wait for ten connections to MySQL, and that wait counts as its time to respond."""
RUNNING_S, STOPPED_S = 0.1, 0.3
FIRST_STOPS_S = (1, 11)  # until every request has arrived; longer than the time limit of the reads that have begun


@contextmanager
def slowed(served: Served) -> Iterator[None]:
    """Stop and continue the server's process, for long at first; then it runs for a quarter of the time."""
    over = threading.Event()

    def stop_and_continue() -> None:
        stops_s = chain(FIRST_STOPS_S, repeat(STOPPED_S))
        while not over.wait(RUNNING_S):
            served.process.send_signal(signal.SIGSTOP)
            over.wait(next(stops_s))
            served.process.send_signal(signal.SIGCONT)

    thread = threading.Thread(target=stop_and_continue)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


async def test_a_burst_is_no_outage(tmp_path: Path, model_server: ModelServer, history_url: str) -> None:
    flow = write_chat_flow(tmp_path / "flow", model_server.url, "words:20")
    numbers = range(REQUESTS[history_url.partition(":")[0]])
    connections = flow / "connections.yaml"
    # A process that is stopped for longer than a connection may take to open has to open it again.
    connections.write_text(connections.read_text().replace("max_retries: 0", "max_retries: 2"))

    async def ask(client: httpx.AsyncClient, number: int) -> tuple[int, str]:
        headers = {"Accept": "text/event-stream", "Chat-Session-Id": f"{number:032}", "Chat-User-Id": f"user {number}"}
        response = await client.post("/", json={"question": "hi"}, headers=headers)
        lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: ")]
        return response.status_code, "".join(json.loads(line).get("answer", "") for line in lines) or response.text

    with serving(flow, tmp_path, FLOWPOD_HISTORY=history_url) as served:
        async with httpx.AsyncClient(
            base_url=served.url, limits=httpx.Limits(max_connections=None), timeout=300
        ) as client:
            with slowed(served):
                answers = await asyncio.gather(*(ask(client, number) for number in numbers))
        assert set(answers) == {(200, "".join(f"w{number} " for number in range(20)))}
        database = Database(dialect_of(history_url), "flow")
        turns = database.schema.turns.c

        async def stored() -> list[tuple[str, str]]:
            rows = await database.fetch_rows(select(turns.session_id, turns.status).order_by(turns.session_id))
            return [(row[0], row[1]) for row in rows]

        expected = [(f"{number:032}", "Completed") for number in numbers]
        async with asyncio.timeout(30):
            while await stored() != expected:
                await asyncio.sleep(0.05)
        await database.close()
        assert "unavailable" not in served.log
