"""A long rollout under load: `python -m tests.bench.rolling`. Prints what was asked, answered and stored."""

import asyncio
import tempfile
from pathlib import Path

from tests.support.flows import write_chat_flow
from tests.support.mariadb import running_mariadb
from tests.support.model_server import running_model_server
from tests.support.rolling import MODEL, rollout

INSTANCES, SESSIONS, ROUNDS = 3, 20, 3


def main() -> None:
    """Replace three instances three times over under twenty sessions."""
    with tempfile.TemporaryDirectory() as temporary, running_model_server() as model:
        folder = Path(temporary)
        (folder / "mariadb").mkdir()
        with running_mariadb(folder / "mariadb") as database:
            flow = write_chat_flow(folder / "flow", model.url, MODEL)
            address = database.new_database("rolling")
            arguments = {"instances": INSTANCES, "sessions": SESSIONS, "rounds": ROUNDS}
            seen = asyncio.run(rollout(flow, folder, address, **arguments))
    print(f"{INSTANCES} instances replaced {ROUNDS} times in {seen.seconds:.0f} s under {SESSIONS} sessions:")
    print(f"{seen.turns} streams answered ({seen.turns / seen.seconds:.0f} a second), {len(seen.failures)} failed")
    print(f"exit statuses of the replaced: {seen.exits}")
    for failure in seen.failures:
        print(failure)


if __name__ == "__main__":
    main()
