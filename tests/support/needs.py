"""What a test needs that is not a Python package of ours: where it is absent, the test is skipped by name."""

import os
import shutil
from pathlib import Path

import pytest

_LIBRARIES = (Path("/usr/lib"), Path("/usr/local/lib"))


def need(program: str, remedy: str = "make test-deps installs it") -> None:
    """Skip the test, or fail it where nothing may be skipped, when `program`, a name or a path, is not there."""
    if shutil.which(program) is None:
        do_without(f"needs {program}, which is not on PATH ({remedy})")


def need_library(pattern: str) -> Path:
    """Return the library that matches a glob pattern; skip or fail the test when there is none."""
    for folder in _LIBRARIES:
        for found in folder.glob(pattern):
            return found
    do_without(f"needs the library {pattern} (make test-deps installs it)")
    raise AssertionError


def do_without(reason: str) -> None:
    """Skip the test, or fail it where nothing may be skipped."""
    if os.environ.get("FLOWPOD_NO_SKIP"):
        pytest.fail(reason)
    pytest.skip(reason)
