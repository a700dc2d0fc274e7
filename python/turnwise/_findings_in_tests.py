"""Which finding belongs to which test, and what it does to it."""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, overload

import pytest

from turnwise._native import enums
from turnwise._shared_in_tests import Sharing
from turnwise.errors import FindingError
from turnwise.tracking import watching

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from turnwise._native import Finding, Lease

# What a report, or a worker of pytest-xdist, carries to the process that prints.
_CARRIED = "turnwise_findings"
_TITLE = "turnwise findings"
_OUTSIDE = "outside of tests"
_GRACE = 1.0


class Note(NamedTuple):
    """What is printed of a finding."""

    number: int
    fails: bool
    severity: str
    place: str
    line: str
    test: str


def register(config: pytest.Config, name: str, *, strict: bool) -> None:
    """Watch in each process that runs tests, and summarise in the one that prints."""
    in_worker = hasattr(config, "workerinput")
    summary = Summary(strict=strict)
    if not in_worker:
        config.pluginmanager.register(summary, f"{name}-summary")
    if in_worker or config.getoption("dist", "no") == "no":
        config.pluginmanager.register(Recorder(config, summary, strict=strict), name)


class FindingsOfTest(Sequence["Finding"]):
    """The findings of a test, oldest first."""

    def __init__(self, allowed: Iterable[str] = (), known: Iterable[int] = ()) -> None:
        self.allowed = frozenset(allowed)
        self.known = set(known)
        self.failing: set[int] = set()
        self.left_open: tuple[Lease, ...] = ()
        self._findings: list[Finding] = []
        self._judged = 0

    @overload
    def __getitem__(self, index: int) -> Finding: ...
    @overload
    def __getitem__(self, index: slice) -> list[Finding]: ...
    def __getitem__(self, index: int | slice) -> Finding | list[Finding]:
        return self._findings[index]

    def __len__(self) -> int:
        return len(self._findings)

    def __repr__(self) -> str:
        return f"<{len(self)} findings: {', '.join(finding.code for finding in self)}>"

    def take(self, *codes: str) -> list[Finding]:
        """Remove the findings of these codes (none: all) and return them: they were expected.

        What was made in the phase that runs (set-up, call, tear-down), not what has failed one.
        """
        taken = [finding for finding in self[self._judged :] if not codes or finding.code in codes]
        for finding in taken:
            self._findings.remove(finding)
        return taken

    def hear(self, finding: Finding, *, fails: bool) -> None:
        """Add one; from any thread."""
        if fails:
            self.failing.add(finding.number)
        self._findings.append(finding)

    def judge(self) -> list[Finding]:
        """Those since the last call."""
        news = self[self._judged :]
        self._judged += len(news)
        return news


class Recorder:
    """Gives each finding to the test that is running when it is made."""

    def __init__(self, config: pytest.Config, summary: Summary, *, strict: bool) -> None:
        self.of_test = FindingsOfTest()
        self._config = config
        self._outside: list[Note] = []
        self._strict = strict
        self._summary = summary
        self._sharing = Sharing()
        self._watch()
        self._subscription = watching.on_finding(self._hear)

    def _hear(self, finding: Finding) -> None:
        if self._sharing.explains(finding):
            return
        fails = (
            self._strict
            and finding.exact
            and finding.severity != "info"
            and finding.code not in self.of_test.allowed
        )
        self.of_test.hear(finding, fails=fails)

    def _fails(self, finding: Finding) -> bool:
        return finding.number in self.of_test.failing

    def _watch(self) -> None:
        # For each phase anew: an application may call `watch` or `unwatch` itself.
        watching.watch(strict=self._strict and self._fails, log=False, grace=_GRACE)

    def pytest_unconfigure(self) -> None:
        """Leave nothing behind."""
        self._subscription.cancel()
        self._sharing.stop()
        watching.unwatch()

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Refuse markers with codes that no finding has: they would allow nothing."""
        for item in items:
            for code in _allowed(item):
                if code not in enums()["FindingCode"]:
                    raise pytest.UsageError(f"{item.nodeid}: no finding has the code {code!r}")

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, object, object]:
        """Begin a test."""
        self._outside += self._take_notes(_OUTSIDE)
        self.of_test = FindingsOfTest(_allowed(item), _live())
        self._sharing.running = True
        self._sharing.listen()
        self._watch()
        return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self) -> Generator[None, object, object]:
        """Watch as before the set-up."""
        self._watch()
        return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[object]
    ) -> Generator[None, object, object]:
        """Remember what a fixture of a wider scope opens: it may outlive the test."""
        if fixturedef.scope == "function":
            return (yield)
        before = _live()
        try:
            return (yield)
        finally:
            self.of_test.known |= _live() - before

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, object, object]:
        """Have what the test leaves behind found now, and not in a later test."""
        try:
            return (yield)
        finally:
            left = self._left()
            if left:
                gc.collect()
                left = self._wait_for_owners()
            self._sharing.running = False
            if "no_open_sessions" in getattr(item, "fixturenames", ()):
                self.of_test.left_open = left

    def _left(self) -> tuple[Lease, ...]:
        return tuple(each for each in watching.leases() if each.number not in self.of_test.known)

    def _wait_for_owners(self) -> tuple[Lease, ...]:
        """Give leases that outlive their owner the time after which that is a finding."""
        if "held-past-owner" in self.of_test.allowed:
            return self._left()
        deadline = time.monotonic() + 2 * _GRACE
        while True:
            left = self._left()
            ended = sum(lease.phase == "ended" for lease in left)
            found = sum(finding.code == "held-past-owner" for finding in self.of_test)
            if ended <= found or time.monotonic() > deadline:
                return left
            time.sleep(0.02)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Fail the phase in which the findings were made."""
        notes = self._take_notes(item.nodeid)
        reasons = self._reasons(notes, _raised_in(call.excinfo.value) if call.excinfo else set())
        beside = call.excinfo is not None and not call.excinfo.errisinstance(pytest.skip.Exception)
        if reasons and not beside:
            try:
                pytest.fail(reasons, pytrace=False)
            except pytest.fail.Exception:
                call.excinfo = pytest.ExceptionInfo.from_current()
        report = yield
        if reasons and report.skipped and not hasattr(report, "wasxfail"):
            # A TestCase keeps its skip elsewhere than in `call`.
            report.outcome, report.longrepr = "failed", reasons
        elif reasons and beside:
            report.sections.append((_TITLE, reasons))
        vars(report)[_CARRIED] = [list(note) for note in notes]
        return report

    def _reasons(self, notes: list[Note], told: set[int]) -> str:
        """Why a strict test fails, as far as its own error does not tell."""
        if not self._strict:
            return ""
        lines = [note.line for note in notes if note.fails and note.number not in told]
        left, self.of_test.left_open = self.of_test.left_open, ()
        if left:
            lines.append(f"{len(left)} connections of this test are still out:")
            lines.append(str(watching.Leases(left)))
        return "\n".join(dict.fromkeys(lines))

    def _take_notes(self, test: str) -> list[Note]:
        return [
            Note(
                number=finding.number,
                fails=self._fails(finding),
                severity=finding.severity,
                place=f"{finding.code} {finding.opened} {finding.last}",
                line=finding.text,
                test=test,
            )
            for finding in self.of_test.judge()
        ]

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        """Hand over what no test has made."""
        self._outside += self._take_notes(_OUTSIDE)
        self._summary.add_outside(self._outside)
        if hasattr(self._config, "workeroutput"):
            self._config.workeroutput[_CARRIED] = [list(note) for note in self._outside]


class Summary:
    """Lists the findings at the end of the run."""

    def __init__(self, *, strict: bool) -> None:
        self._strict = strict
        self._fails = False
        self._places: dict[str, list[Note]] = {}

    def add(self, notes: Iterable[Note]) -> None:
        """Add those of a test."""
        for note in notes:
            self._places.setdefault(note.place, []).append(note)

    def add_outside(self, notes: Iterable[Note]) -> None:
        """Add those of no test."""
        notes = list(notes)
        self._fails = self._fails or any(note.fails for note in notes)
        self.add(notes)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Collect, also from the workers of pytest-xdist."""
        self.add(Note(*note) for note in getattr(report, _CARRIED, ()))

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: object) -> None:
        """Collect from a worker of pytest-xdist what none of its tests has made."""
        output = getattr(node, "workeroutput", {})
        self.add_outside(Note(*note) for note in output.get(_CARRIED, ()))

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail the run for what would fail a test and was made outside of all: nobody else does."""
        if self._strict and self._fails and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _is_news(self, note: Note) -> bool:
        """In a strict run, not what a test has failed of, and nothing harmless."""
        told = note.fails and note.test != _OUTSIDE
        return not self._strict or not (told or note.severity == "info")

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print each place once, with the tests that came by."""
        shown = [notes for notes in self._places.values() if self._is_news(notes[0])]
        if shown:
            terminalreporter.section(_TITLE)
        for notes in shown:
            tests = list(dict.fromkeys(note.test for note in notes))
            more = f" and {len(tests) - 1} more" if len(tests) > 1 else ""
            terminalreporter.write_line(f"{notes[0].severity}: {notes[0].line}")
            times = "once" if len(notes) == 1 else f"{len(notes)} times"
            terminalreporter.write_line(f"    {times}: {tests[0]}{more}")


def _allowed(item: pytest.Item) -> list[str]:
    return [code for mark in item.iter_markers("turnwise_allow") for code in mark.args]


def _live() -> set[int]:
    return {lease.number for lease in watching.leases()}


def _raised_in(error: BaseException) -> set[int]:
    """The numbers of the findings that an error, or what it hides, names."""
    numbers: set[int] = set()
    seen: set[int] = set()
    errors: list[BaseException | None] = [error]
    while errors:
        each = errors.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        errors += [each.__cause__, each.__context__, *getattr(each, "exceptions", ())]
        if isinstance(each, FindingError) and each.finding is not None:
            numbers.add(each.finding.number)
    return numbers
