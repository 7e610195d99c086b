"""What one instance needs: CPU time a run, memory at rest and a stream. `python -m tests.bench.sizing`.

CPU time, not wall time, so that the figures hold on a machine that does other things too.
"""

import asyncio
import os
import tempfile
from pathlib import Path

import httpx

from tests.support.flows import write_chat_flow
from tests.support.model_server import running_model_server
from tests.support.serving import Served, serving

RUNS, CHUNKS, OPEN = 300, 100, 500


def cpu_s(served: Served) -> float:
    fields = Path(f"/proc/{served.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_mib(served: Served) -> float:
    status = Path(f"/proc/{served.process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


async def run_all(served: Served, runs: int, at_once: int, stream: bool) -> None:
    """Do `runs` runs, each in a session of its own."""
    headers = {"Accept": "text/event-stream" if stream else "application/json"}
    limits = httpx.Limits(max_connections=at_once)
    async with httpx.AsyncClient(base_url=served.url, limits=limits, timeout=120, headers=headers) as client:
        asked = (client.post("/", json={"question": "hi"}) for _ in range(runs))
        for response in await asyncio.gather(*asked):
            response.raise_for_status()


async def peak_of_open_streams(served: Served) -> float:
    """Return the memory while OPEN streams are open."""
    task = asyncio.create_task(run_all(served, OPEN, OPEN, stream=True))
    peak = 0.0
    while not task.done():
        peak = max(peak, await asyncio.to_thread(memory_mib, served))
        await asyncio.sleep(0.1)
    await task
    return peak


def measure(model: str, url: str, *, stream: bool) -> tuple[float, float]:
    """Return (CPU milliseconds a run, memory in MiB at rest)."""
    with tempfile.TemporaryDirectory() as folder:
        flow = write_chat_flow(Path(folder) / "flow", url, model)
        with serving(flow, Path(folder)) as served:
            asyncio.run(run_all(served, 20, 10, stream))
            rest, begun = memory_mib(served), cpu_s(served)
            asyncio.run(run_all(served, RUNS, 50, stream))
            return (cpu_s(served) - begun) / RUNS * 1000, rest


def main() -> None:
    """Measure and print."""
    with running_model_server() as model:
        whole, rest = measure("echo", model.url, stream=False)
        streamed, _ = measure(f"words:{CHUNKS}:0.05", model.url, stream=True)
        with tempfile.TemporaryDirectory() as folder:
            flow = write_chat_flow(Path(folder) / "flow", model.url, "words:40:0.25")
            with serving(flow, Path(folder)) as served:
                asyncio.run(run_all(served, 20, 10, stream=True))
                before = memory_mib(served)
                peak = asyncio.run(peak_of_open_streams(served))
    print(f"memory at rest: {rest:.0f} MiB")
    print(f"memory a stream: {(peak - before) * 1024 / OPEN:.0f} KiB ({OPEN} at once: {peak:.0f} MiB)")
    print(f"CPU a run, in one piece: {whole:.1f} ms")
    print(f"CPU a run, streamed in {CHUNKS} chunks: {streamed:.1f} ms")


if __name__ == "__main__":
    main()
