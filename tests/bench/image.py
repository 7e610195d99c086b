"""What an image of the packaged flow weighs, and how long it takes from nothing to its first answer.

`python -m tests.bench.image`, after `make test-image` has made a base.
"""

import statistics
import tempfile
import time
from pathlib import Path

import httpx

from tests.image.engine import Engine
from tests.support.serving import ROOT

TAG = "localhost/flowpod-bench:latest"
STARTS = 7
TOKEN = {"Authorization": "Bearer t0ken"}


def main() -> None:
    """Build, weigh, start."""
    with tempfile.TemporaryDirectory() as folder:
        engine = Engine(Path(folder))
        done = engine.build(ROOT, TAG)
        assert done.returncode == 0, done.stdout
    total = engine.inspect(TAG)["Size"] / 1e6
    print(f"image: {total:.0f} MB")
    for line in engine.call("history", "--format", "{{.Size}}\t{{.CreatedBy}}", TAG).splitlines():
        if not line.startswith("0 B"):
            print(f"  {line[:100]}")
    starts = []
    for _ in range(STARTS):
        begun = time.monotonic()
        with engine.serving(TAG, "--env=FLOWPOD_TOKENS=t0ken") as (container, url):
            answer = httpx.post(url, json={"question": "How do I rotate a token?"}, headers=TOKEN)
            answer.raise_for_status()
            starts.append(time.monotonic() - begun)
            memory = engine.call("exec", container, "grep", "VmRSS", "/proc/1/status").split()[1]
    print(
        f"from `run` to the first answer: {statistics.median(starts):.2f} s (median of {STARTS}: {min(starts):.2f} to {max(starts):.2f})"
    )
    print(f"memory after it: {int(memory) / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
