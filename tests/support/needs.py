"""What a test needs that is not a Python package of ours: where it is absent, the test is skipped by name."""

import os
import shutil

import pytest


def need(program: str, remedy: str = "make test-deps installs it") -> None:
    """Skip the test, or fail it where nothing may be skipped, when `program`, a name or a path, is not there."""
    if shutil.which(program) is None:
        reason = f"needs {program}, which is not on PATH ({remedy})"
        if os.environ.get("FLOWPOD_NO_SKIP"):
            pytest.fail(reason)
        pytest.skip(reason)
