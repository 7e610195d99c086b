"""`make audit` says what it found, and says so when it could ask nobody."""

import pytest

from tests.support.audit import NoAuditError, Report, main

CLEAN = {"name": "a", "version": "1", "vulns": []}
UNKNOWN = {"name": "b", "skip_reason": "b is not on this index"}
FOUND = {"name": "c", "version": "3", "vulns": [{"id": "CVE-1", "fix_versions": ["4"]}]}


@pytest.mark.parametrize(
    ("answers", "status", "text"),
    [
        ({"pypi": [CLEAN]}, 0, "1 packages audited with pypi: 0 known vulnerabilities"),
        ({"pypi": [CLEAN, UNKNOWN], "osv": [CLEAN, CLEAN]}, 0, "2 packages audited with osv: 0 known"),
        ({"osv": [CLEAN, FOUND]}, 1, "c 3: CVE-1, fixed in 4"),
        ({"pypi": [UNKNOWN]}, 2, "no audit took place:\n  pypi: 1 of 1 packages unknown: b is not on this index"),
        ({}, 2, "osv: no route"),
    ],
)
def test_an_audit_without_answers_is_no_success(
    answers: dict[str, Report], status: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def ask(service: str, locks: object) -> Report:
        if service not in answers:
            raise NoAuditError("no route")
        return answers[service]

    assert main(["requirements.lock"], ask) == status
    assert text in capsys.readouterr().out
