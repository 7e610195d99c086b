import os
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from flowpod.compat import stand_ins
from tests.support.flows import write_chat_flow
from tests.support.mariadb import MariaDB, running_mariadb
from tests.support.model_server import ModelServer, running_model_server
from tests.support.needs import need

pytest_plugins = ["tests.support.faults", "tests.support.outages"]

stand_ins.install()
# A busy machine is no reason for an example to fail.
hypothesis.settings.register_profile("flowpod", deadline=None)
hypothesis.settings.load_profile("flowpod")
# Programs that make puts beside this Python, such as Helm, are found like any other.
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("needs"):
        need(marker.args[0])


@pytest.fixture(scope="session")
def model_server() -> Iterator[ModelServer]:
    """The stand-in for a model, shared by the tests of this process."""
    with running_model_server() as server:
        yield server


@pytest.fixture
def chat_flow(tmp_path: Path, model_server: ModelServer) -> Path:
    """A chat flow whose model says "You said: <question>"."""
    return write_chat_flow(tmp_path / "flow", model_server.url)


@pytest.fixture(scope="session")
def mariadb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MariaDB]:
    """A MariaDB server, shared by the tests of this process."""
    # Its commits outlive the server, not the machine: nobody has to wait for the disk.
    with running_mariadb(tmp_path_factory.mktemp("mariadb"), "--innodb-flush-log-at-trx-commit=2") as server:
        yield server


@pytest.fixture
def mysql_url(mariadb: MariaDB) -> str:
    """The address of an empty database."""
    return mariadb.new_database(f"d{uuid.uuid4().hex}")


@pytest.fixture(params=["sqlite", pytest.param("mysql", marks=pytest.mark.needs("mariadbd"))])
def history_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty database of each kind, one after the other."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'history' / 'chat_history.db'}"
    return str(request.getfixturevalue("mysql_url"))
