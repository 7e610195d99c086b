import os
import shutil
from collections.abc import Iterator

import pytest

from runtime import compat
from tests.support.model_server import ModelServer, running_model_server

compat.install()


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("needs"):
        program = marker.args[0]
        if shutil.which(program) is None:
            reason = f"needs {program}, which is not on PATH (make test-deps installs it)"
            if os.environ.get("FLOWPOD_NO_SKIP"):
                pytest.fail(reason)
            pytest.skip(reason)


@pytest.fixture(scope="session")
def model_server() -> Iterator[ModelServer]:
    """The stand-in for a model, shared by the tests of this process."""
    with running_model_server() as server:
        yield server
