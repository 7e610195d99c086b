"""Background runs as a client has them."""

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.support.flows import write_flow

PATIENCE_S = 30


def write_sleepy_flow(folder: Path) -> Path:
    """Write a flow without a chat that sleeps for `seconds`, and counts each of its runs by a line in `log`."""
    dag = """
    inputs:
      name: {type: string}
      seconds: {type: double, default: 0}
      log: {type: string, default: ""}
    outputs:
      out: {type: string, reference: "${sleep.output}"}
    nodes:
    - name: sleep
      type: python
      source: {path: sleep.py}
      inputs: {name: "${inputs.name}", seconds: "${inputs.seconds}", log: "${inputs.log}"}
    """
    code = """
    import asyncio
    from promptflow.core import tool

    @tool
    async def sleep(name: str, seconds: float, log: str):
        if log:
            with open(log, "a") as file:
                file.write(name + "\\n")
        await asyncio.sleep(seconds)
        if name == "bad":
            raise ValueError("no")
        return name
    """
    return write_flow(folder, dag, {"sleep.py": code})


async def submit(client: httpx.AsyncClient, inputs: dict[str, Any], **headers: str) -> str:
    """Start a background run and return its id."""
    response = await client.post("/run", json={"inputs": inputs, "background": True}, headers=headers)
    assert response.status_code == 202, response.text
    run_id = str(response.json()["run_id"])
    assert response.headers["location"] == f"runs/{run_id}"
    return run_id


async def state(client: httpx.AsyncClient, run_id: str) -> dict[str, Any]:
    response = await client.get(f"/runs/{run_id}")
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def wait_for(client: httpx.AsyncClient, run_id: str, *statuses: str) -> dict[str, Any]:
    """Wait until the run has one of the statuses, or has ended."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            now = await state(client, run_id)
            if now["status"] in (statuses or ("Completed", "Failed", "Canceled")):
                return now
            await asyncio.sleep(0.05)


@dataclass(frozen=True)
class Seen:
    """An event as a reader gets it."""

    id: int
    data: dict[str, Any]

    @property
    def text(self) -> str:
        return "".join(self.data.get("outputs", {}).values())


def seen_in(stream: str) -> list[Seen]:
    """Return the events of a stream."""
    found = []
    for frame in stream.split("\n\n"):
        if lines := [line for line in frame.splitlines() if not line.startswith(":")]:
            assert lines[0].startswith("id: ")
            assert lines[1].startswith("data: ")
            found.append(Seen(int(lines[0][4:]), json.loads(lines[1][6:])))
    return found
