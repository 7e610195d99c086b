"""`make audit`: pip-audit over lock files, from the first vulnerability service that knows their packages.

Exit status: 0 if no vulnerability is known, 1 if one is, 2 if no audit took place.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

SERVICES = ("pypi", "osv")
Report = Sequence[Mapping[str, Any]]
"""pip-audit's `dependencies`: each with a name and either a version and `vulns` or a `skip_reason`."""


class NoAuditError(Exception):
    """The service gave no complete answer; the message says why."""


def pip_audit(service: str, locks: Sequence[str]) -> Report:
    """Ask one service about all packages of the lock files; raises NoAuditError."""
    command = [str(Path(sys.executable).with_name("pip-audit")), "--vulnerability-service", service, "--format=json"]
    command += ["--require-hashes", "--disable-pip", "--progress-spinner=off"]
    done = subprocess.run([*command, *(f"--requirement={lock}" for lock in locks)], capture_output=True, text=True)
    try:
        report: Report = json.loads(done.stdout)["dependencies"]
    except ValueError:
        raise NoAuditError((done.stderr.strip().splitlines() or ["no output"])[-1]) from None
    return report


def main(locks: Sequence[str], ask: Callable[[str, Sequence[str]], Report] = pip_audit) -> int:
    """Print the known vulnerabilities, or why nothing is known, and return the exit status."""
    reasons = []
    for service in SERVICES:
        try:
            report = ask(service, locks)
        except NoAuditError as error:
            reasons.append(f"{service}: {error}")
            continue
        # pip-audit itself calls it a success when the service knows none of the packages.
        if skipped := [one for one in report if "skip_reason" in one]:
            reasons.append(f"{service}: {len(skipped)} of {len(report)} packages unknown: {skipped[0]['skip_reason']}")
            continue
        found = [(one, vulnerability) for one in report for vulnerability in one["vulns"]]
        for one, vulnerability in found:
            fixed = ", ".join(vulnerability["fix_versions"]) or "no version yet"
            print(f"{one['name']} {one['version']}: {vulnerability['id']}, fixed in {fixed}")
        print(f"{len(report)} packages audited with {service}: {len(found)} known vulnerabilities")
        return 1 if found else 0
    print("no audit took place:", *reasons, sep="\n  ")
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
