"""Runs make targets one after the other, counts their tests and ends with a plain total.

Usage: run_steps.py [--report FOLDER] TARGET...

A failing step does not hide the later ones. The exit status is 0 if every step succeeded and every
`test-` and `soak-` step ran at least one test. With --report the table is also written to
FOLDER/soak-<date>.md, with the machine and the versions.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
CARGO = re.compile(r"^test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored")
# The summary line of pytest, with the bars of its normal output or bare with -q.
PYTEST = re.compile(r"^(?:=+ )?(?=.*\b(?:passed|failed|error|skipped)).* in \d[\d.]*s\b")
DATABASES = """
import sqlite3, tempfile, warnings
from turnwise import BatchWriter
from turnwise.cli.machine import file_system, flush_ms
warnings.simplefilter("ignore")
with tempfile.TemporaryDirectory() as folder, BatchWriter(folder + "/x.db") as writer:
    ours = writer.settings.sqlite_version
    print(f"- SQLite {ours} (the package's), {sqlite3.sqlite_version} (Python's)")
    print(f"- databases on {file_system(folder)}, one flush {flush_ms(folder):.2f} ms")
"""
PYTEST_COUNT = re.compile(r"(\d+) (passed|failed|errors?|skipped|xfailed|xpassed)")


@dataclass
class Step:
    """One make target and what came of it."""

    target: str
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0
    status: int = 0

    @property
    def ok(self) -> bool:
        """Whether it succeeded; a test step that ran no test did not."""
        empty = self.target.startswith(("test-", "soak-")) and self.passed == 0
        return self.status == 0 and self.failed == 0 and not empty

    def count(self, line: str) -> None:
        """Add the tests that a line of output reports."""
        line = COLOUR.sub("", line).rstrip()
        if found := CARGO.match(line):
            passed, failed, ignored = map(int, found.groups())
            self.passed += passed
            self.failed += failed
            self.skipped += ignored
        elif PYTEST.match(line):
            for number, outcome in PYTEST_COUNT.findall(line):
                if outcome == "passed":
                    self.passed += int(number)
                elif outcome in {"skipped", "xfailed"}:
                    self.skipped += int(number)
                else:
                    self.failed += int(number)

    def run(self) -> None:
        """Run the target, passing its output on."""
        print(f"\n==> make {self.target}", flush=True)
        begin = time.monotonic()
        make = ["make", "--no-print-directory", self.target]
        with subprocess.Popen(
            make, cwd=ROOT, stdout=subprocess.PIPE, text=True, errors="replace"
        ) as process:
            for line in process.stdout or ():
                print(line, end="", flush=True)
                self.count(line)
        self.status = process.returncode
        self.seconds = time.monotonic() - begin


def table(steps: list[Step]) -> list[str]:
    """Lay the steps out as a Markdown table."""
    lines = [
        f"| {'step':<18} | passed | failed | skipped | seconds | result |",
        f"|{'-' * 20}|-------:|-------:|--------:|--------:|--------|",
    ]
    lines += [
        f"| {s.target:<18} | {s.passed:6} | {s.failed:6} | {s.skipped:7} | {s.seconds:7.0f} "
        f"| {'ok' if s.ok else 'FAILED':<6} |"
        for s in steps
    ]
    return lines


def total(steps: list[Step]) -> str:
    """Say in one line what all steps came to."""
    bad = [s.target for s in steps if not s.ok]
    tests = f"{sum(s.passed for s in steps)} tests passed, {sum(s.failed for s in steps)} failed"
    took = f"{len(steps)} steps in {sum(s.seconds for s in steps) / 60:.1f} min"
    return f"FAILED: {', '.join(bad)}; {tests}; {took}" if bad else f"OK: {tests}; {took}"


def machine() -> list[str]:
    """Name the machine and the versions that numbers depend on."""
    cpu = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    processor = cpu.group(1) if cpu else platform.machine()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    rustc = subprocess.run(["rustc", "--version"], capture_output=True, text=True, check=True)
    # In a process of its own, because the package may not be built yet when this script starts.
    databases = subprocess.run(
        [sys.executable, "-c", DATABASES], capture_output=True, text=True, check=False
    )
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return [
        f"- machine: {processor}, {os.cpu_count()} cores, {memory:.0f} GiB",
        f"- kernel: {platform.system()} {platform.release()}",
        f"- versions: {rustc.stdout.strip()}, Python {platform.python_version()}",
        *databases.stdout.splitlines(),
        f"- commit: {commit.stdout.strip() or 'unknown'}",
    ]


def main() -> int:
    """Run the targets that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, add_help=False)
    parser.add_argument("--report", type=Path)
    parser.add_argument("targets", nargs="+")
    wanted = parser.parse_args()
    steps = [Step(target) for target in wanted.targets]
    for step in steps:
        step.run()
    print("\n" + "\n".join(table(steps)))
    if wanted.report is not None:
        day = datetime.now(timezone.utc).date().isoformat()
        wanted.report.mkdir(parents=True, exist_ok=True)
        report = wanted.report / f"soak-{day}.md"
        text = [f"# Long counts, {day}", "", *machine(), "", *table(steps), "", total(steps), ""]
        report.write_text("\n".join(text), encoding="utf-8")
        print(f"written: {report}")
    print(total(steps))
    return 0 if all(step.ok for step in steps) else 1


if __name__ == "__main__":
    sys.exit(main())
