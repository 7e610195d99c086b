"""Random UUIDs of a pool."""

import subprocess
import sys
import threading
import uuid

from flowpod.ids import new_uuid


def test_ids_are_uuids_of_version_4() -> None:
    for text in {new_uuid() for _ in range(1000)}:
        made = uuid.UUID(text)
        assert (str(made), made.version, made.variant) == (text, 4, uuid.RFC_4122)


def test_threads_make_no_id_twice() -> None:
    made: list[str] = []
    threads = [threading.Thread(target=lambda: made.extend(new_uuid() for _ in range(1000))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == len(made) == 4000


def test_a_forked_process_makes_none_of_its_parents_ids() -> None:
    code = "import os\nfrom flowpod.ids import new_uuid\nnew_uuid()\nos.fork()\nos.write(1, f'{new_uuid()} '.encode())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert len(set(done.stdout.split())) == 2
