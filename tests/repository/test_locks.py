"""Lock files hold versions and hashes, and no addresses: whoever installs has registries of their own."""

from pathlib import Path

import pytest

from tests.support.serving import ROOT

LOCKS = [
    *ROOT.glob("requirements*.lock"),
    *ROOT.glob("tests/clients/*/requirements.lock"),
    *ROOT.glob("tests/bench/peers/*/requirements.lock"),
    ROOT / "tests/clients/node/package-lock.json",
]


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_lock_file_names_no_address(path: Path) -> None:
    text = path.read_text()
    assert "://" not in text
    assert "sha256:" in text or "sha512-" in text
