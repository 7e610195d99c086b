"""The numbers of a benchmark as files."""

import argparse
import platform
import shlex
import sysconfig
from pathlib import Path
from typing import Any

import orjson

from tests.bench.process import Cores

_OPTIMISED = "--enable-optimizations"
_BUILD_OPTIONS = (_OPTIMISED, "--with-lto", "--enable-shared", "--disable-gil", "--enable-experimental-jit")


def write_json(path: Path, content: Any) -> None:
    """Write what was measured, its folder made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def options(description: str, **numbers: tuple[float, str]) -> argparse.Namespace:
    """Read the command line: a number for each name in `numbers`, which have defaults and helps, and `--results`."""
    parser = argparse.ArgumentParser(description=description)
    for name, (default, text) in numbers.items():
        parser.add_argument(f"--{name}", type=type(default), default=default, help=f"{text} (default %(default)s)")
    parser.add_argument("--results", type=Path, help="a folder for the numbers as JSON")
    return parser.parse_args()


def keep(folder: Path | None, name: str, content: Any) -> None:
    """Write what was measured into the folder, if there is one."""
    if folder:
        write_json(folder / name, content)


def machine() -> dict[str, Any]:
    """Return what the numbers were taken on."""
    cores = Cores.of_this_machine()
    return {
        "processor": _processor(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "build": _build(),
        "pinned": cores.server != cores.others,
    }


def _build() -> str:
    """Return how the interpreter was built: its compiler, and what `configure` was told about speed.

    Debian's packages are optimised without any of the options.
    """
    given = shlex.split(sysconfig.get_config_var("CONFIG_ARGS") or "")
    chosen = [option for option in given if option.startswith(_BUILD_OPTIONS)]
    return ", ".join([platform.python_compiler(), *chosen, *(() if _OPTIMISED in chosen else (f"no {_OPTIMISED}",))])


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
