"""The environments of the clients that tests drive; `make test-clients` installs them."""

from tests.support.needs import need
from tests.support.serving import ROOT

NODE = ROOT / "tests" / "clients" / "node"
_REMEDY = "make test-clients installs it"


def python_for(client: str) -> str:
    """Return the Python in which a client is installed; skips the test where it is not."""
    python = str(ROOT / ".venv" / "clients" / client / "bin" / "python")
    need(python, _REMEDY)
    return python


def node_for(client: str) -> str:
    """Return node, for scripts in `NODE`; skips the test where the clients for it are not installed."""
    need("node")
    if not (NODE / "node_modules").is_dir():
        need(f"{client} in {NODE / 'node_modules'}", _REMEDY)
    return "node"
