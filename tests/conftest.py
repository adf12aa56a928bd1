"""What holds for every test: one thread, no deadlines, no silent skips of what can be installed."""

from __future__ import annotations

import os
from collections.abc import Generator

# Before numpy and torch are imported: two workers with one thread each, as `make test` runs them.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes says something of the machine, and nothing of the code.
settings.register_profile("pvrl", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("pvrl")

ALLOWED_SKIPS = ("gpu:", "server:", "platform:")
"""What a machine may lack; everything else can be installed, so CI must not skip it."""


def _fail_skip(reason: str) -> str | None:
    """Return why a skip is a failure here, or None if it is allowed."""
    text = reason.removeprefix("Skipped: ")
    if not os.environ.get("CI") or text.startswith(ALLOWED_SKIPS):
        return None
    return (
        f"skipped under CI: {text}\nInstall what is missing, or begin the reason with one of: "
        + " ".join(ALLOWED_SKIPS)
    )


def _judge(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.outcome != "skipped" or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    why = _fail_skip(reason)
    if why is not None:
        report.outcome = "failed"
        report.longrepr = why


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skipped test into a failed one under CI."""
    report = yield
    _judge(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Turn a skipped module into a failed one under CI."""
    report = yield
    _judge(report)
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show the lines that tests recorded with ``record_property("summary", line)``."""
    for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed"):
        for name, value in report.user_properties:
            if name == "summary":
                terminalreporter.write_line(str(value))
