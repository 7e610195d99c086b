"""What the imports of a cold start cost: seconds and memory, by package.

    python -m tests.bench.imports

The seconds are those of `python -X importtime` while `flowpod serve` starts and gives its first answer: each package's
own modules, without what they import. The memory is the growth of the resident set of a fresh interpreter that imports
the same packages, then the same modules, one after the other in the order in which they were complete there.
"""

import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from tests.bench.process import Cores, pinned
from tests.bench.results import keep, options
from tests.bench.server import Place
from tests.bench.servers import Flowpod
from tests.bench.visit import visiting
from tests.support.serving import ROOT

_LINE = re.compile(r"import time: +(\d+) \| +\d+ \| +(\S+)")
_STANDARD = "(standard library)"
_REPLAY = """
import importlib, sys
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * PAGE
for name in sys.argv[1:]:
    before = resident()
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        continue  # it was looked for in vain
    print(name, resident() - before)
print("", resident())
"""


@dataclass(frozen=True)
class Share:
    """What the modules of one package take."""

    package: str
    modules: int
    seconds: float
    memory_bytes: int


class _Watched(Flowpod):
    """`flowpod serve` under an interpreter that tells what each import takes."""

    def command(self, place: Place) -> list[str]:
        python, *rest = super().command(place)
        return [python, "-X", "importtime", *rest]


def measure() -> tuple[list[Share], int]:
    """Return each package's share, the largest first, and the memory of an interpreter with all of them."""
    with visiting(_Watched("flowpod")) as visited:
        lines = _LINE.findall(visited.tree.log.read_text())
    seconds: defaultdict[str, float] = defaultdict(float)
    modules: defaultdict[str, int] = defaultdict(int)
    for microseconds, module in lines:
        package = _package(module)
        seconds[package] += int(microseconds) / 1e6
        modules[package] += 1
    names = [module for _, module in lines if not module.endswith("__main__")]
    memory, whole = _memory([name for name in names if "." not in name] + names, visited.cores)
    shares = [Share(name, modules[name], taken, memory.get(name, 0)) for name, taken in seconds.items()]
    return sorted(shares, key=lambda share: -share.seconds), whole


def _package(module: str) -> str:
    root = module.partition(".")[0]
    return _STANDARD if root in sys.stdlib_module_names or root.startswith("_") else root


def _memory(modules: list[str], cores: Cores) -> tuple[Mapping[str, int], int]:
    code = _REPLAY.replace("PAGE", str(os.sysconf("SC_PAGE_SIZE")))
    command = pinned(cores.server, [sys.executable, "-c", code, *modules])
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    lines = [line.rpartition(" ") for line in done.stdout.splitlines()]
    memory: defaultdict[str, int] = defaultdict(int)
    for module, _, grown in lines[:-1]:
        memory[_package(module)] += int(grown)
    return memory, int(lines[-1][2])


def main() -> None:
    chosen = options("Measure the imports of a cold start.")
    shares, whole = measure()
    print(f"{'package':28}{'modules':>8}{'seconds':>9}{'MB':>7}")
    for share in shares[:25]:
        print(f"{share.package:28}{share.modules:8}{share.seconds:9.3f}{share.memory_bytes / 1e6:7.1f}")
    print(f"{'all':28}{sum(s.modules for s in shares):8}{sum(s.seconds for s in shares):9.3f}{whole / 1e6:7.1f}")
    content = {"memory_bytes": whole, "packages": [asdict(share) for share in shares]}
    keep(chosen.results, "imports.json", content)


if __name__ == "__main__":
    main()
