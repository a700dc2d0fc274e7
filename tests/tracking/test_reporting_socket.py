"""Reports on a Unix socket: who may read them, what dead processes leave, forks, slow readers."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time

import pytest

from turnwise.cli.top_reports import read_all
from turnwise.tracking import reporting_folder, reporting_socket

SERVER = """
import sys, time
from turnwise.tracking import reporting_socket
reporting_socket.serve(lambda: '{"version": 1, "argv0": "child"}', folder=sys.argv[1])
print("serves", flush=True)
time.sleep(60)
"""


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "reports"
    yield str(place)
    reporting_socket.stop()


def until(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def document(**more):
    return json.dumps({"version": 1, "pid": os.getpid(), "argv0": "app", **more})


def processes(folder):
    return {report.pid: report.argv0 for report in read_all(folder).reports}


def mode(path):
    return stat.S_IMODE(os.lstat(path).st_mode)


@contextlib.contextmanager
def serving_process(folder):
    child = subprocess.Popen([sys.executable, "-c", SERVER, folder], stdout=subprocess.PIPE)
    try:
        assert child.stdout.readline() == b"serves\n"
        yield child
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def test_a_process_is_asked_and_answers_for_its_user_alone(folder):
    reporting_socket.serve(document, folder=folder)
    path = reporting_socket.path()
    assert mode(folder) == 0o700
    assert mode(path) == 0o600
    assert os.path.basename(path).startswith(f"{os.getpid()}-")
    assert processes(folder) == {os.getpid(): "app"}
    reporting_socket.serve(lambda: document(argv0="other"), folder=folder)
    assert reporting_socket.path() == path
    assert processes(folder) == {os.getpid(): "other"}
    reporting_socket.stop()
    reporting_socket.stop()
    assert os.listdir(folder) == []
    assert "turnwise-reports" not in {thread.name for thread in threading.enumerate()}
    reporting_socket.serve(document, folder=folder)
    assert processes(folder) == {os.getpid(): "app"}


def test_where_the_folder_is(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert reporting_folder.default_folder() == str(tmp_path / "turnwise")
    for unusable in ("", "relative", str(tmp_path / "missing")):
        monkeypatch.setenv("XDG_RUNTIME_DIR", unusable)
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        assert reporting_folder.default_folder() == str(tmp_path / f"turnwise-{os.geteuid()}")


def open_to_others(folder):
    os.mkdir(folder)
    os.chmod(folder, 0o777)


def readable_by_others(folder):
    os.mkdir(folder)
    os.chmod(folder, 0o750)


def link(folder):
    os.mkdir(folder + "-real", 0o700)
    os.symlink(folder + "-real", folder)


def file(folder):
    with open(folder, "w"):
        pass


def below_an_open_folder(folder):
    os.mkdir(folder, 0o700)
    os.chmod(os.path.dirname(folder), 0o777)


HOSTILE = [open_to_others, readable_by_others, link, file, below_an_open_folder]


@pytest.mark.parametrize("make", HOSTILE, ids=[make.__name__ for make in HOSTILE])
def test_a_folder_of_others_is_refused(make, folder):
    make(folder)
    with pytest.raises(PermissionError, match=os.path.dirname(folder)):
        reporting_socket.serve(document, folder=folder)
    assert reporting_socket.path() is None
    reports = read_all(folder)
    assert reports.reports == []
    assert "reports are ignored" in reports.notes[0]


def test_a_folder_of_another_user_is_refused(folder):
    # root can give one away; everyone else has one that is root's.
    if os.geteuid() == 0:
        os.mkdir(folder, 0o700)
        os.chown(folder, 65534, 65534)
    else:
        folder = "/"
    with pytest.raises(PermissionError, match="another user"):
        reporting_socket.serve(document, folder=folder)
    assert "another user" in read_all(folder).notes[0]


def test_a_folder_with_too_long_a_name_is_named(tmp_path):
    with pytest.raises(OSError, match="XDG_RUNTIME_DIR"):
        reporting_socket.serve(document, folder=str(tmp_path / ("x" * 120)))
    assert reporting_socket.path() is None


def test_what_a_killed_process_leaves_is_removed(folder):
    with serving_process(folder) as child:
        assert processes(folder) == {child.pid: "child"}
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert len(os.listdir(folder)) == 1
    assert processes(folder) == {}
    assert os.listdir(folder) == []


def test_the_next_process_removes_what_a_killed_one_left(folder):
    with serving_process(folder) as living, serving_process(folder) as dead:
        dead.kill()
        dead.wait()
        half_made, begun = (os.path.join(folder, f"{pid}-0.new") for pid in (1, 2))
        for path in (half_made, begun):
            with socket.socket(socket.AF_UNIX) as unused:
                unused.bind(path)
        os.utime(half_made, (1, 1))
        reporting_socket.serve(document, folder=folder)
        assert until(lambda: not os.path.exists(half_made))
        assert until(lambda: len(os.listdir(folder)) == 3)
        assert os.path.exists(begun)
        assert processes(folder) == {os.getpid(): "app", living.pid: "child"}


def test_an_ended_process_leaves_nothing(folder):
    code = SERVER.replace("time.sleep(60)", "")
    subprocess.run([sys.executable, "-c", code, folder], check=True, stdout=subprocess.DEVNULL)
    assert os.listdir(folder) == []


def test_a_forked_child_serves_on_a_socket_of_its_own(folder):
    reporting_socket.serve(document, folder=folder)
    path = reporting_socket.path()
    awake, end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(end)
        os.read(awake, 1)  # Until the parent has seen enough, or has ended.
        os._exit(0)
    os.close(awake)
    try:
        assert until(lambda: processes(folder) == {os.getpid(): "app", child: "app"})
        assert reporting_socket.path() == path
    finally:
        os.close(end)
        os.waitpid(child, 0)
    assert processes(folder) == {os.getpid(): "app"}
    assert os.path.exists(path)


def test_a_child_that_stops_serving_leaves_its_parents_socket(folder):
    reporting_socket.serve(document, folder=folder)
    child = os.fork()
    if child == 0:
        until(reporting_socket.path)
        reporting_socket.stop()
        os._exit(0)
    os.waitpid(child, 0)
    assert processes(folder) == {os.getpid(): "app"}
    assert len(os.listdir(folder)) == 1


def test_readers_that_do_not_read_are_given_up(folder):
    text = document(filler="x" * 5_000_000)
    reporting_socket.serve(lambda: text, folder=folder)
    slow = [socket.socket(socket.AF_UNIX) for _ in range(2)]
    for client in slow:
        client.connect(reporting_socket.path())
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(reporting_socket.path())
        with client.makefile("rb") as answer:
            assert answer.read() == text.encode()
    for client in slow:
        client.close()


def test_a_source_that_fails_is_said_and_asked_again(folder):
    answers = iter([document(argv0="first"), None, document(argv0="third")])

    def source():
        answer = next(answers)
        if answer is None:
            raise RuntimeError("a secret")
        return answer

    reporting_socket.serve(source, folder=folder)
    said = [processes(folder)[os.getpid()] for _ in range(3)]
    assert said == ["first", "", "third"]


@pytest.mark.parametrize("answer", ["", "no JSON", "[1]", "[" * 100_000])
def test_an_answer_that_is_no_document_is_noted(answer, folder):
    reporting_socket.serve(lambda: answer, folder=folder)
    reports = read_all(folder)
    assert reports.reports == []
    assert reports.notes == ["1 processes gave no report that can be read"]


@pytest.mark.parametrize(
    "leases", [None, 3, [3, None], [{}], [{"backend_pid": "7"}], [{"backend_pid": True}]]
)
def test_what_is_no_lease_is_left_out(leases, folder):
    reporting_socket.serve(lambda: document(leases=leases), folder=folder)
    assert [report.leases for report in read_all(folder).reports] == [()]


def test_a_lease_as_the_core_says_it(folder):
    said = {
        "lease": 3,
        "pool": "shop",
        "backend_pid": 8939,
        "state": "idle_in_tx",
        "age_ms": 13000.5,
        "state_age_ms": 12400,
        "write_age_ms": 12900,
        "owner": None,
    }
    finding = {"code": "lock-held", "age_ms": 2100.4, "at_ms": 5, "owner": {"name": "GET /"}}
    finding |= {"opened": "app.py:7 in f", "last": None}
    reporting_socket.serve(lambda: document(leases=[said], findings=[finding]), folder=folder)
    (report,) = read_all(folder).reports
    assert [each.text for each in report.findings] == ["lock-held 2.1s GET / app.py:7 in f"]
    (found,) = report.leases
    assert (found.number, found.age, found.state_age, found.wrote) == (3, 13.0005, 12.4, True)
