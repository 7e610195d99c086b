"""Many conversations at once, and whether the history has every turn of them exactly once."""

import asyncio
import json
import sqlite3
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pymysql
from sqlalchemy.engine import make_url

from tests.support.flows import write_flow

_PATIENCE_S = 60


def write_talking_flow(folder: Path) -> Path:
    """Write a chat flow that streams its answer in a tenth of a second, and needs no model."""
    dag = """
    inputs:
      question: {type: string, is_chat_input: true}
      chat_history: {type: list, is_chat_history: true}
    outputs:
      answer: {type: string, reference: "${reply.output}", is_chat_output: true}
    nodes:
    - name: reply
      type: python
      source: {type: code, path: reply.py}
      inputs: {question: "${inputs.question}", history: "${inputs.chat_history}"}
    """
    code = """
    import asyncio

    async def invoke(question: str, history: list):
        for word in ["after", str(len(history)), "turns:", question]:
            yield word + " "
            await asyncio.sleep(0.025)
    """
    return write_flow(folder, dag, {"reply.py": code})


@dataclass(slots=True)
class Talk:
    """What the clients saw: questions whose run ended (and those whose end said `deferred`), and what went wrong."""

    ended: dict[str, list[str]] = field(default_factory=dict)
    deferred: set[str] = field(default_factory=set)
    problems: Counter[str] = field(default_factory=Counter)

    @property
    def count(self) -> int:
        """How many turns ended."""
        return sum(len(questions) for questions in self.ended.values())


class Talkers:
    """Clients that each hold one conversation, at one of the services in turn, until they are told to stop."""

    def __init__(self, urls: Sequence[str], sessions: int) -> None:
        self._urls = list(urls)
        self._sessions = [f"session-{number:03}-{uuid.uuid4()}" for number in range(sessions)]
        self._stopped = asyncio.Event()
        self.talk = Talk({session: [] for session in self._sessions})

    async def run(self) -> Talk:
        """Talk until `stop`."""
        async with httpx.AsyncClient(timeout=_PATIENCE_S, limits=httpx.Limits(max_connections=None)) as client:
            await asyncio.gather(*(self._converse(client, place) for place in range(len(self._sessions))))
        return self.talk

    def stop(self) -> None:
        """Let every client end its turn, and no more."""
        self._stopped.set()

    async def _converse(self, client: httpx.AsyncClient, place: int) -> None:
        session = self._sessions[place]
        turn = 0
        while not self._stopped.is_set():
            question = f"{session}-{turn}"
            url = self._urls[(place + turn) % len(self._urls)]
            turn += 1
            try:
                await self._ask(client, url, session, question)
            except httpx.TransportError as error:
                self.talk.problems[type(error).__name__] += 1
                await asyncio.sleep(0.2)

    async def _ask(self, client: httpx.AsyncClient, url: str, session: str, question: str) -> None:
        body = {"inputs": {"question": question}, "stream": True}
        async with client.stream("POST", f"{url}/run", json=body, headers={"Chat-Session-Id": session}) as response:
            if response.status_code != 200:
                self.talk.problems[str(response.status_code)] += 1
                await asyncio.sleep(float(response.headers.get("retry-after", 1)) / 4)
                return
            async for line in response.aiter_lines():
                if line.startswith("data: ") and '"RunTerminated"' in line:
                    end = json.loads(line.removeprefix("data: "))
                    if end["flow_run_info"]["status"] != "Completed":
                        self.talk.problems[str(end["flow_run_info"]["error"])] += 1
                        return
                    self.talk.ended[session].append(question)
                    if end.get("metadata", {}).get("history") == "deferred":
                        self.talk.deferred.add(question)


def stored_turns(history: str, service: str = "flow") -> dict[str, list[tuple[int, str]]]:
    """Return (number, question) of every turn that is stored, by session, in the order in which they were stored."""
    query = f"SELECT session_id, turn, inputs FROM langstudio_chat_history_{service} ORDER BY id"
    url = make_url(history)
    if url.drivername == "sqlite":
        database = sqlite3.connect(url.database or "")
        rows = database.execute(query).fetchall()
        database.close()
    else:
        with (
            pymysql.connect(
                host=url.host,
                port=url.port or 3306,
                user=url.username,
                password=url.password or "",
                database=url.database,
            ) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute(query)
            rows = list(cursor.fetchall())
    found: dict[str, list[tuple[int, str]]] = {}
    for session, number, inputs in rows:
        found.setdefault(session, []).append((number, json.loads(inputs)["question"]))
    return found


def missing_turns(talk: Talk, history: str) -> list[str]:
    """Return what a client saw the end of and is not stored; fail where a turn is stored twice or out of order."""
    stored = stored_turns(history)
    missing = []
    for session, questions in talk.ended.items():
        turns = stored.get(session, [])
        numbers = [number for number, _ in turns]
        assert sorted(numbers) == list(range(1, len(numbers) + 1)), (session, numbers)
        there = Counter(question for _, question in turns)
        assert not [question for question, count in there.items() if count > 1]
        in_time = [question for question in questions if question not in talk.deferred]
        order = [question for _, question in sorted(turns)]
        assert [question for question in order if question in in_time] == [q for q in in_time if q in there]
        missing += [question for question in questions if question not in there]
    return missing
