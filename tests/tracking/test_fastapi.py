"""What becomes of a request's session on the FastAPIs whose dependencies end at other moments."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import fastapi
import pytest

import fastapi_scenes
from sightings import IDLE_IN_TRANSACTION, is_at, line_of

HERE = Path(__file__).parent
REPOSITORY = HERE.parent.parent
PINNED = {
    re.search("fastapi-(.*)-requirements", path.name)[1]: re.search(
        "^fastapi==(.*)$", path.read_text(encoding="utf-8"), re.MULTILINE
    )[1]
    for path in sorted(REPOSITORY.glob("tools/fastapi-*-requirements.txt"))
}
VERSIONS = [*PINNED, "newest"]
BEFORE_RESPONSE = {"0.106", "0.117"}  # Where a dependency ends before the response.
WITH_SCOPE = {"0.121", "newest"}
MODULE = fastapi_scenes.__file__


def played_on(version, dsn):
    """What fastapi_scenes.py prints with that FastAPI."""
    folders = [str(HERE), str(HERE.parent / "sqlalchemy")]
    if version in PINNED:
        folders.insert(0, str(REPOSITORY / ".venv" / f"fastapi-{version}"))
    path = os.pathsep.join([*folders, os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, MODULE, dsn],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert told["version"] == PINNED.get(version, fastapi.__version__)
    return told


@pytest.fixture(scope="module", params=VERSIONS)
def version(request):
    return request.param


@pytest.fixture(scope="module")
def played(version, shop):
    """All scenes on one FastAPI: without turnwise, then watched."""
    dsn = f"postgresql://app:app@{shop.server.host}:{shop.server.port}/{shop.name}"
    return played_on(version, dsn)


def late(version):
    """Whether dependencies end after the response and its background tasks."""
    return version not in BEFORE_RESPONSE


def found(played, scene):
    return played["watched"][scene]["found"]


def codes(played, scene):
    """Without the infos that something is over."""
    return [f["code"] for f in found(played, scene) if "given back" not in f["detail"]]


def only(played, scene, code):
    (finding,) = [
        f for f in found(played, scene) if f["code"] == code and "given back" not in f["detail"]
    ]
    return finding


def test_the_order_of_a_request(version, played):
    early_background = "enter endpoint exit response sent background"
    early_stream = "enter endpoint exit response row chunk sent"
    expected = {"background": early_background, "stream": early_stream}
    if late(version):
        expected = {
            "background": "enter endpoint response sent background exit",
            "stream": "enter endpoint response row chunk sent exit",
        }
    wanted = {
        f"{kind}/{name}": parts for kind in ("sync", "async") for name, parts in expected.items()
    }
    if version in WITH_SCOPE:
        wanted |= {"function/background": early_background, "function/stream": early_stream}
    assert played["orders"] == wanted


@pytest.mark.parametrize("half", ["unwatched", "watched"])
def test_what_postgresql_sees_of_a_background_task(version, played, half):
    seen = played[half]["with_the_requests_session"]["seen"]
    if late(version):
        # The request's transaction stays open for as long as the task takes.
        assert seen == {
            "task begins": [IDLE_IN_TRANSACTION],
            "task ends": [IDLE_IN_TRANSACTION],
            "answered": [],
            "collected": [],
        }
    else:
        # The closed session has begun anew, and nobody will close it.
        assert seen == {
            "task begins": [],
            "task ends": [IDLE_IN_TRANSACTION],
            "answered": [IDLE_IN_TRANSACTION],
            "collected": [],
        }


def test_a_background_task_with_the_requests_session_is_named(version, played):
    scene = "with_the_requests_session"
    if late(version):
        assert codes(played, scene) == ["session-after-response"]
        finding = only(played, scene, "session-after-response")
        assert finding["severity"] == "warning"
        assert is_at(finding["opened"], line_of(MODULE, "endpoint"))
        assert is_at(finding["last"], line_of(MODULE, "background"))
    else:
        assert codes(played, scene) == ["reopened-after-close", "held-past-owner", "gc-returned"]
        finding = only(played, scene, "reopened-after-close")
        assert finding["severity"] == "error"
        assert is_at(finding["opened"], line_of(MODULE, "background"))
    assert finding["exact"]
    assert finding["owner_kind"] == "request"
    assert finding["owner_name"] == "POST /webhook/{name}"
    assert finding["phase"] == "responded"


def test_what_the_task_left_open_is_named_with_its_owner(version, played):
    if late(version):
        return
    for code in ("held-past-owner", "gc-returned"):
        finding = only(played, "with_the_requests_session", code)
        assert finding["severity"] == "error"
        assert finding["owner_name"] == "POST /webhook/{name}"
        assert finding["phase"] == "ended"
        assert is_at(finding["opened"], line_of(MODULE, "background"))


def test_a_background_task_with_a_session_of_its_own_is_clean(played):
    assert codes(played, "with_a_session_of_its_own") == []


@pytest.mark.parametrize("scene", ["committed_after_yield", "flushed_and_committed_after_yield"])
def test_a_commit_after_yield(version, played, scene):
    # The client has its 200, and the row is not there.
    expected = 0 if late(version) else 1
    for half in ("unwatched", "watched"):
        assert played[half][scene]["seen"]["rows when sent"] == expected
    if not late(version):
        assert codes(played, scene) == []
        return
    assert codes(played, scene) == ["commit-after-response"]
    finding = only(played, scene, "commit-after-response")
    assert finding["severity"] == "warning"
    assert finding["owner_name"] == "POST /items"
    assert finding["phase"] == "responded"
    assert is_at(finding["last"], line_of(MODULE, "commit after yield"))


def test_a_background_task_that_commits_a_session_of_its_own_is_clean(played):
    scene = "committed_by_a_background_task"
    assert played["watched"][scene]["seen"]["rows when sent"] == 0
    assert codes(played, scene) == []


def test_a_commit_before_the_response_is_clean(version, played):
    scenes = ["committed_in_the_endpoint"]
    if version in WITH_SCOPE:
        scenes.append("committed_in_function_scope")
    assert ("committed_in_function_scope" in played["watched"]) == (version in WITH_SCOPE)
    for scene in scenes:
        assert played["watched"][scene]["seen"]["rows when sent"] == 1
        assert codes(played, scene) == []


def test_a_stream_from_the_requests_session(version, played):
    scene = "streamed_from_the_requests_session"
    left = [] if late(version) else [IDLE_IN_TRANSACTION]
    for half in ("unwatched", "watched"):
        assert played[half][scene]["seen"]["answered"] == left
    first = found(played, scene)[0]
    assert first["owner_name"] == "GET /export"
    if late(version):
        assert is_at(first["last"], line_of(MODULE, "stream"))
        assert codes(played, scene) == ["session-after-response"]
        assert (first["severity"], first["phase"]) == ("info", "streaming")
    else:
        # A stream may open sessions: the fault is that nobody closes this one.
        assert is_at(first["opened"], line_of(MODULE, "stream"))
        assert codes(played, scene) == ["held-past-owner", "gc-returned"]


def test_a_stream_from_a_session_of_its_own_is_clean(played):
    assert codes(played, "streamed_from_a_session_of_its_own") == []
