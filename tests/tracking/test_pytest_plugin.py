"""`--turnwise=strict`, as the suite of an application uses it."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

pytest_plugins = ["pytester"]

ROOT = Path(__file__).resolve().parents[2]

SHOP = """
import asyncio
import threading

from sqlalchemy import create_engine, text
from sqlalchemy.orm import sessionmaker
from turnwise.tracking.owners import owner

engine = create_engine("sqlite:///shop.db")
Session = sessionmaker(engine)
ONE = text("SELECT 1")


def right():
    with owner("request", "GET /right"), Session() as session:
        session.execute(ONE)


async def wrong_route():
    async with owner("request", "GET /wrong"):
        with Session() as session:
            session.execute(ONE)


def wrong():
    asyncio.run(wrong_route())


def wrong_and_quiet():
    async def route():
        async with owner("request", "GET /quiet"):
            try:
                with Session() as session:
                    session.execute(ONE)
            except Exception:
                pass
    asyncio.run(route())


def wrong_in_a_thread():
    def work():
        try:
            wrong()
        except Exception:
            pass
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def with_session(session, *requests):
    for name in requests:
        with owner("request", name):
            session.execute(ONE)


def session_of_another_request():
    with owner("request", "GET /first"):
        session = Session()
        session.execute(ONE)
    try:
        with_session(session, "GET /second")
    except Exception:
        pass
    session.close()


def forgotten():
    session = Session()
    session.execute(ONE)
    session.info["cycle"] = session


def outlives_its_owner():
    with owner("request", "GET /held"):
        session = Session()
        session.execute(ONE)
    return session
"""

STRICT = {
    "conftest.py": """
import pytest
import shop


@pytest.fixture(scope="session")
def of_the_session():
    with shop.Session() as session:
        session.execute(shop.ONE)
        yield session


@pytest.fixture
def of_the_test():
    with shop.Session() as session:
        yield session
""",
    "test_failing.py": """
import pytest
import shop
import turnwise


def test_raised():
    shop.wrong()

def test_swallowed():
    shop.wrong_and_quiet()

def test_in_a_thread():
    shop.wrong_in_a_thread()

def test_forgotten():
    shop.forgotten()

def test_held_past_its_owner():
    test_held_past_its_owner.kept = shop.outlives_its_owner()

def test_expected_but_not_taken():
    with pytest.raises(turnwise.errors.FindingError):
        shop.wrong()

def test_session_of_another_request():
    shop.session_of_another_request()

def test_skipped():
    shop.wrong_and_quiet()
    pytest.skip("too late")

def test_other_error():
    shop.wrong_and_quiet()
    assert 1 == 2

@pytest.fixture
def wrong_fixture():
    shop.wrong_and_quiet()

def test_in_a_fixture(wrong_fixture):
    pass

@pytest.fixture
def wrong_end():
    yield
    shop.wrong_and_quiet()

def test_at_the_end_of_a_fixture(wrong_end):
    pass

def test_left_open(no_open_sessions):
    test_left_open.session = shop.Session()
    test_left_open.session.execute(shop.ONE)

@pytest.mark.turnwise_allow("gc-returned")
def test_another_code_is_allowed():
    shop.wrong_and_quiet()
""",
    "test_passing.py": """
import time
import pytest
import shop
import turnwise
from turnwise.tracking import watching


def test_right():
    shop.right()

@pytest.mark.turnwise_allow("cross-owner-use", "sync-on-loop")
def test_allowed():
    shop.wrong()

@pytest.mark.turnwise_allow("sync-on-loop")
class TestAllowed:
    def test_in_a_class(self):
        shop.wrong()

def test_taken(turnwise_findings):
    assert list(turnwise_findings) == []
    with pytest.raises(turnwise.errors.FindingError) as raised:
        shop.wrong()
    assert [finding.code for finding in turnwise_findings] == ["sync-on-loop"]
    assert turnwise_findings.take("gc-returned") == []
    [finding] = turnwise_findings.take("sync-on-loop")
    assert finding.number == raised.value.finding.number
    assert len(turnwise_findings) == 0

@pytest.mark.xfail(strict=True)
def test_expected_to_fail():
    shop.wrong_and_quiet()

def test_nothing_left_open(no_open_sessions, of_the_session, of_the_test):
    of_the_test.execute(shop.ONE)
    of_the_session.execute(shop.ONE)
    with shop.Session() as session:
        session.execute(shop.ONE)

def test_the_session_of_the_session_is_still_out(no_open_sessions, of_the_session):
    assert of_the_session.in_transaction()
    assert len(watching.leases()) >= 1

def test_a_session_that_is_shared_with_requests(of_the_test):
    shop.with_session(of_the_test, "GET /first", "GET /second")
    of_the_test.execute(shop.ONE)
    time.sleep(1.5)

def test_a_call_of_watch_changes_nothing(turnwise_findings):
    watching.watch(strict=False)
    shop.wrong()
    assert turnwise_findings.take("sync-on-loop")

def test_a_call_of_unwatch():
    watching.unwatch()

def test_is_watched_again(turnwise_findings):
    shop.wrong_and_quiet()
    assert turnwise_findings.take("sync-on-loop")
""",
    "test_unittest.py": """
import unittest
import shop


class Case(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.session = shop.Session()
        cls.session.execute(shop.ONE)

    @classmethod
    def tearDownClass(cls):
        cls.session.close()

    def test_right(self):
        shop.right()

    def test_swallowed(self):
        shop.wrong_and_quiet()

    def test_skipped(self):
        shop.wrong_and_quiet()
        self.skipTest("too late")

    def test_other_error(self):
        shop.wrong_and_quiet()
        self.fail("something else")


class AsyncCase(unittest.IsolatedAsyncioTestCase):
    async def test_body_belongs_to_no_request(self):
        with shop.Session() as session:
            session.execute(shop.ONE)

    async def test_route(self):
        await shop.wrong_route()
""",
    "test_async.py": """
import pytest
import shop


@pytest.mark.asyncio
async def test_asyncio_body_belongs_to_no_request():
    with shop.Session() as session:
        session.execute(shop.ONE)

@pytest.mark.asyncio
async def test_asyncio_route():
    await shop.wrong_route()

@pytest.fixture
def anyio_backend():
    return "asyncio"

@pytest.mark.anyio
async def test_anyio_body_belongs_to_no_request():
    with shop.Session() as session:
        session.execute(shop.ONE)

@pytest.mark.anyio
async def test_anyio_route():
    await shop.wrong_route()
""",
}


class Outcome:
    def __init__(self, result, path):
        self.ret = result.ret
        self.text = result.stdout.str() + result.stderr.str()
        self.tests = {}
        assert path.exists(), self.text
        for case in ET.parse(path).getroot().iter("testcase"):
            for kind in ("failure", "error", "skipped", "system-out"):
                for found in case.iter(kind):
                    told = f"{found.get('message', '')}\n{found.text or ''}"
                    self.tests.setdefault(case.get("name"), {})[kind] = told
            self.tests.setdefault(case.get("name"), {})

    def failed(self):
        return {name for name, told in self.tests.items() if {"failure", "error"} & set(told)}


@pytest.fixture(autouse=True)
def _only_the_plugins_that_are_named(monkeypatch):
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)


@pytest.fixture
def suite(pytester):
    """Runs files as a suite of their own."""

    def run(files, *options):
        for name, text in {"shop.py": SHOP, **files}.items():
            (pytester.path / name).write_text(text, encoding="utf-8")
        arguments = ["-p", "turnwise.pytest_plugin", "-p", "no:cacheprovider"]
        arguments += ["--junitxml=report.xml", "-o", "junit_logging=all", "-rA"]
        result = pytester.runpytest_subprocess(*arguments, *options, timeout=100)
        return Outcome(result, pytester.path / "report.xml")

    return run


def chosen(*names):
    return {name: STRICT[name] for name in ("conftest.py", *names)}


def test_the_test_that_causes_a_finding_fails(suite):
    ran = suite(chosen("test_failing.py"), "--turnwise=strict")
    assert ran.failed() == set(ran.tests), ran.text
    told = {name: "\n".join(kinds.values()) for name, kinds in ran.tests.items()}
    for name, code in {
        "test_raised": "sync-on-loop",
        "test_swallowed": "sync-on-loop",
        "test_in_a_thread": "sync-on-loop",
        "test_expected_but_not_taken": "sync-on-loop",
        "test_session_of_another_request": "cross-owner-use",
        "test_skipped": "sync-on-loop",
        "test_in_a_fixture": "sync-on-loop",
        "test_at_the_end_of_a_fixture": "sync-on-loop",
        "test_forgotten": "gc-returned",
        "test_held_past_its_owner": "held-past-owner",
        "test_another_code_is_allowed": "sync-on-loop",
    }.items():
        assert re.search(rf"{code}.*shop\.py:\d+ in ", told[name]), (name, told[name])
    assert "GET /quiet" in told["test_swallowed"]
    assert "assert 1 == 2" in told["test_other_error"]
    assert "1 connections of this test are still out" in told["test_left_open"]
    assert re.search(r"test_failing\.py:\d+ in test_left_open", told["test_left_open"])
    at_its_end = {"test_forgotten", "test_held_past_its_owner", "test_left_open"}
    errors = {name for name, kinds in ran.tests.items() if "error" in kinds}
    assert errors == {"test_in_a_fixture", "test_at_the_end_of_a_fixture", *at_its_end}
    assert re.search("turnwise findings -.*\n.*sync-on-loop", ran.text), "beside the other error"


def test_what_is_right_allowed_or_expected_passes(suite):
    ran = suite(chosen("test_passing.py"), "--turnwise=strict")
    assert ran.failed() == set(), ran.text
    assert len(ran.tests) == STRICT["test_passing.py"].count("def test_")


def test_other_kinds_of_tests(suite):
    """A body that runs on a loop is no request."""
    plugins = ("-p", "pytest_asyncio.plugin", "-p", "anyio.pytest_plugin")
    ran = suite(chosen("test_unittest.py", "test_async.py"), "--turnwise=strict", *plugins)
    in_test_case = {"test_swallowed", "test_skipped", "test_other_error", "test_route"}
    assert ran.failed() == {*in_test_case, "test_asyncio_route", "test_anyio_route"}, ran.text
    assert not any("skipped" in kinds for kinds in ran.tests.values()), ran.text
    assert "something else" in ran.tests["test_other_error"]["failure"]
    assert "sync-on-loop" in ran.tests["test_route"]["failure"]


@pytest.mark.parametrize("options", [(), ("-p", "xdist", "-n2")], ids=["alone", "xdist"])
def test_a_report_fails_nothing(suite, options):
    ran = suite(
        {
            "test_it.py": "import shop\n\ndef test_one():\n    shop.wrong()\n\n"
            "def test_two():\n    shop.wrong_and_quiet()\n\ndef test_three():\n    shop.wrong()\n"
        },
        "--turnwise=report",
        *options,
    )
    assert ran.ret == 0, ran.text
    _, summary = ran.text.split("= turnwise findings =")
    assert summary.count("warning: sync-on-loop") == 2, "each place once"
    assert re.search(r"2 times: test_it.py::test_(one|three) and 1 more\n", summary)
    assert "once: test_it.py::test_two\n" in summary


def test_each_worker_for_itself(suite):
    names = ("test_failing.py", "test_passing.py")
    ran = suite(chosen(*names), "--turnwise=strict", "-p", "xdist", "-n2")
    failing = set(re.findall(r"def (test_\w+)\(", STRICT["test_failing.py"]))
    assert ran.failed() == failing, ran.text


OUTSIDE = {
    "test_it.py": "import shop\nshop.wrong_and_quiet()\n\ndef test_one():\n    shop.right()\n"
}


@pytest.mark.parametrize("options", [(), ("-p", "xdist", "-n1")], ids=["alone", "xdist"])
def test_a_finding_outside_of_tests_fails_the_run(suite, options):
    ran = suite(OUTSIDE, "--turnwise=strict", *options)
    assert ran.failed() == set()
    assert ran.ret == pytest.ExitCode.TESTS_FAILED, ran.text
    assert re.search(r"warning: sync-on-loop.*\n +once: outside of tests", ran.text)


def test_the_setting_is_the_default(suite, pytester):
    pytester.makeini("[pytest]\nturnwise = strict\n")
    wrong = {"test_it.py": "import shop\n\ndef test_one():\n    shop.wrong_and_quiet()\n"}
    assert suite(wrong).failed() == {"test_one"}
    assert suite(wrong, "--turnwise=off").failed() == set()
    pytester.makeini("[pytest]\nturnwise = loud\n")
    result = pytester.runpytest_subprocess("-p", "turnwise.pytest_plugin")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines("ERROR: turnwise = 'loud': must be one of off, report, strict")


def test_an_unknown_code_is_an_error(pytester):
    pytester.makepyfile(
        "import pytest\n\n@pytest.mark.turnwise_allow('sync-on-lop')\ndef test_one():\n    pass\n"
    )
    result = pytester.runpytest_subprocess("-p", "turnwise.pytest_plugin", "--turnwise=strict")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines("ERROR: *::test_one: no finding has the code 'sync-on-lop'")


OFF = """
import sys
import pytest

@pytest.mark.turnwise_allow("sync-on-loop")
def test_nothing_is_loaded(no_open_sessions):
    loaded = {name for name in sys.modules if name.partition(".")[0] in ("turnwise", "sqlalchemy")}
    assert loaded == {"turnwise", "turnwise.pytest_plugin"}

def test_without_findings(turnwise_findings):
    assert False
"""


def test_without_the_flag_it_does_nothing(suite, pytester):
    (pytester.path / "test_it.py").write_text(OFF)
    arguments = ("-p", "turnwise.pytest_plugin", "--strict-markers", "-rs")
    result = pytester.runpytest_subprocess(*arguments)
    result.assert_outcomes(passed=1, skipped=1)
    result.stdout.fnmatch_lines("*needs --turnwise=strict or --turnwise=report*")


def test_the_entry_point_loads_it_once(pytester, monkeypatch):
    """Whether or not somebody names it in `-p` or `pytest_plugins` as well."""
    declared = re.search(
        r'^\[project\.entry-points\.pytest11\]\n("?)(.*?)\1 = "(.*)"$',
        (ROOT / "pyproject.toml").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    installed = pytester.mkdir("turnwise_plugin-0.dist-info")
    (installed / "METADATA").write_text("Name: turnwise-plugin\nVersion: 0\n")
    (installed / "entry_points.txt").write_text(f"[pytest11]\n{declared[2]} = {declared[3]}\n")
    monkeypatch.delenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD")
    pytester.makepyfile(OFF)
    pytester.runpytest_subprocess().assert_outcomes(passed=1, skipped=1)
    pytester.makeconftest('pytest_plugins = ["turnwise.pytest_plugin"]')
    arguments = ("-p", "turnwise.pytest_plugin")
    pytester.runpytest_subprocess(*arguments).assert_outcomes(passed=1, skipped=1)
