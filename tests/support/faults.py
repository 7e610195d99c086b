"""Faults: tests that prove a row of the fault matrix in docs/operating.md, and the table that `make faults` prints."""

from collections.abc import Callable, Iterator

import pytest

FAULT, FIGURES = "fault", "figures"


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Attach the test's row of the fault matrix to its reports."""
    for marker in item.iter_markers(FAULT):
        item.user_properties.append((FAULT, marker.args[0]))


@pytest.fixture
def figures(record_property: Callable[[str, object], None]) -> Iterator[dict[str, object]]:
    """What the test measured, by name and unit, for the table that `make faults` prints."""
    measured: dict[str, object] = {}
    yield measured
    record_property(FIGURES, measured)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print one line for each fault: its result, its duration and its figures."""
    if config.option.markexpr != FAULT:
        return
    rows: dict[str, _Row] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            properties = dict(getattr(report, "user_properties", ()))
            if FAULT in properties:
                rows.setdefault(properties[FAULT], _Row()).add(report, properties.get(FIGURES, {}))
    terminalreporter.section("faults")
    for name, row in sorted(rows.items()):
        terminalreporter.write_line(
            f"| {name} | {row.outcome} | {row.tests} tests, {row.seconds:.1f} s | {row.measured} |"
        )


class _Row:
    def __init__(self) -> None:
        self.outcome = "held"
        self.tests = 0
        self.seconds = 0.0
        self.figures: dict[str, object] = {}

    def add(self, report: pytest.TestReport, figures: dict[str, object]) -> None:
        self.tests += report.when == "call"
        self.seconds += report.duration
        self.figures |= figures
        if not report.passed:
            self.outcome = report.outcome.upper()

    @property
    def measured(self) -> str:
        return ", ".join(f"{value} {name}" for name, value in self.figures.items())
