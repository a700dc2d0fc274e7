"""The side files of the turn lock, as others may leave, replace or forbid them."""

from __future__ import annotations

import os
import shutil
import stat
import time
from contextlib import suppress

import pytest

from process_support import landed, make_database, wait_for
from turn_parties import SAVE, Party, free, locked_by, side
from turnwise import BatchWriter, TurnLock, events
from writer_support import wait_until

SIDES = ("-turn", "-turn-next")
pytestmark = pytest.mark.filterwarnings("ignore::turnwise.errors.WalResetBugWarning")


@pytest.fixture
def path(tmp_path):
    return make_database(tmp_path / "a.db")


@pytest.fixture
def degraded():
    """The events that tell of what turnwise has to do without."""
    told = []
    with events.on_event(lambda event: told.append(event) if event.kind == "degraded" else None):
        yield told


def remove(file):
    if file.is_dir() and not file.is_symlink():
        shutil.rmtree(file)
    else:
        file.unlink(missing_ok=True)


def replace(file, kind, folder):
    """Puts something else where a side file was."""
    remove(file)
    match kind:
        case "nothing":
            pass
        case "another file":
            file.write_bytes(b"what is this")
        case "a directory":
            file.mkdir()
        case "a link":
            (folder / "elsewhere").write_text("untouched")
            file.symlink_to(folder / "elsewhere")
        case "a dangling link":
            file.symlink_to(folder / "nowhere")
        case "a fifo":
            os.mkfifo(file)


NO_LOCK = ("a directory", "a link", "a dangling link", "a fifo")


@pytest.mark.parametrize("suffixes", [SIDES[:1], SIDES[1:], SIDES], ids=" and ".join)
@pytest.mark.parametrize("kind", ["nothing", "another file", *NO_LOCK])
def test_side_files_that_are_replaced_stop_nobody(path, tmp_path, suffixes, kind):
    held = kind not in NO_LOCK
    with Party(path) as holder, Party(path) as waiter, Party(path) as other:
        for party in (holder, waiter, other):
            party.do("lock = TurnLock(path, turn_timeout=None)")
        holder.do("turn = lock.turn().__enter__()")
        waiter.start("lock.turn(timeout=20).__enter__().held")
        wait_for(lambda: locked_by(side(path, "-turn-next")) == {waiter.pid}, "it waits")
        for suffix in suffixes:
            replace(side(path, suffix), kind, tmp_path)
        other.start("turn = lock.turn(timeout=20).__enter__()")
        if held and suffixes != SIDES:
            # At the file that is left they all still queue.
            time.sleep(0.2)
            holder.do("turn.release()")
        other.reply(10)
        assert other.do("turn.held") is held
        assert (other.do("lock.unavailable") is None) is held
        other.do("turn.release()")
        holder.do("turn.release()")
        assert waiter.reply(10) is held
        waiter.kill()
        # Who needs not wait looks at the files every 0.1 s.
        time.sleep(0.15)
        if held:
            holder.do("turn = lock.turn(timeout=5).__enter__()")
            assert locked_by(side(path)) == {holder.pid}
            told = other.do("timed(lambda: lock.turn(timeout=0.2).__enter__())")
            assert f"process {holder.pid} " in told[2]
            holder.do("turn.release()")
        for party in (holder, other):
            party.do("writer = BatchWriter(path); writer.execute(SAVE, ('a', os.getpid()))")
        assert len(landed(path)) == 2
        if kind == "a link":
            assert (tmp_path / "elsewhere").read_text() == "untouched"
        if kind == "a dangling link":
            assert not (tmp_path / "nowhere").exists()
        # And they queue again once that is cleared away.
        for suffix in suffixes:
            remove(side(path, suffix))
        time.sleep(1.1)
        assert holder.do("lock.turn(timeout=5).__enter__().held")
        assert other.do("lock.turn(timeout=5).__enter__().held")


@pytest.mark.parametrize("kind", NO_LOCK)
def test_a_writer_without_a_turn_lock_says_so_once(path, tmp_path, degraded, kind):
    replace(side(path), kind, tmp_path)
    with BatchWriter(path) as writer:
        for number in range(20):
            writer.execute(SAVE, ("a", number))
        assert writer.settings.turn_lock is False
        assert str(side(path)) in writer.settings.turn_lock_missing
        assert writer.stats().turn_fall_throughs >= 20
        with BatchWriter(path) as again:
            again.execute(SAVE, ("b", 1))
        wait_until(lambda: degraded)
    time.sleep(0.1)
    assert [(event.path, event.error) for event in degraded] == [(str(path), "TurnUnavailable")]
    assert len(landed(path)) == 21


def test_a_writer_with_a_turn_lock_or_none_wanted_says_nothing(path, degraded):
    with BatchWriter(path) as writer:
        writer.execute(SAVE, ("a", 1))
        assert (writer.settings.turn_lock, writer.settings.turn_lock_missing) == (True, None)
    for suffix in SIDES:
        side(path, suffix).unlink()
    with BatchWriter(path, turn_lock=False) as writer:
        writer.execute(SAVE, ("a", 2))
        assert (writer.settings.turn_lock, writer.settings.turn_lock_missing) == (False, None)
    assert not side(path).exists()
    time.sleep(0.1)
    assert degraded == []


def test_files_replaced_again_and_again_lose_nothing(path):
    crew = "for number in range(300): writer.execute(SAVE, (str(os.getpid()), number))"
    with Party(path) as one, Party(path) as other, Party(path) as third:
        for party in (one, other, third):
            party.do("writer = BatchWriter(path)")
            party.start(crew)
        until = time.monotonic() + 1
        while time.monotonic() < until:
            for suffix in SIDES:
                with suppress(FileNotFoundError):
                    side(path, suffix).unlink()
            time.sleep(0.003)
        for party in (one, other, third):
            party.reply()
    assert sorted(landed(path).values()) == [1] * 900


@pytest.mark.parametrize("mask", [0o077, 0])
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666])
def test_side_files_have_the_databases_permissions(path, mask, mode):
    path.chmod(mode)
    before = os.umask(mask)
    try:
        with TurnLock(path).turn() as turn:
            assert turn.held
    finally:
        os.umask(before)
    for suffix in SIDES:
        assert stat.S_IMODE(side(path, suffix).stat().st_mode) == mode


# Only root can be somebody else, and root may do everything.
NOBODY = 65_534 if os.geteuid() == 0 else os.geteuid()
GROUP = 65_534 if os.geteuid() == 0 else os.getegid()


class TestAsAnotherUser:
    """What another user meets."""

    @pytest.fixture
    def of_nobody(self, path, tmp_path):
        """The database and its folder are nobody's, and reachable."""
        for folder in [tmp_path, *tmp_path.parents]:
            if os.geteuid() == 0 and not folder.stat().st_mode & stat.S_IXOTH:
                folder.chmod(folder.stat().st_mode | stat.S_IXOTH)
        for file in (tmp_path, *tmp_path.iterdir()):
            os.chown(file, NOBODY, GROUP)
        return path

    def test_side_files_have_the_databases_owner(self, of_nobody):
        with TurnLock(of_nobody).turn() as turn:
            assert turn.held
        for suffix in SIDES:
            found = side(of_nobody, suffix).stat()
            assert (found.st_uid, found.st_gid) == (NOBODY, GROUP)
        with Party(of_nobody, user=NOBODY) as other:
            other.do("lock = TurnLock(path)")
            assert other.do("lock.turn(timeout=5).__enter__().held")

    @pytest.mark.parametrize("suffix", SIDES)
    def test_unreadable_files(self, of_nobody, suffix):
        file = side(of_nobody, suffix)
        file.write_bytes(b"")
        file.chmod(0)
        with Party(of_nobody, user=NOBODY) as other:
            other.do("writer = BatchWriter(path); writer.execute(SAVE, ('a', 1))")
            assert str(file) in other.do("writer.settings.turn_lock_missing")
            assert other.do("writer.settings.turn_lock") is False
        assert len(landed(of_nobody)) == 1

    def test_files_that_can_only_be_read_still_lock(self, of_nobody):
        for suffix in SIDES:
            side(of_nobody, suffix).write_bytes(b"")
            side(of_nobody, suffix).chmod(0o444)
        with Party(of_nobody, user=NOBODY) as one, Party(of_nobody, user=NOBODY) as other:
            one.do("lock = TurnLock(path); turn = lock.turn().__enter__()")
            assert one.do("turn.held")
            other.do("lock = TurnLock(path, turn_timeout=None)")
            _, kind, told = other.do("timed(lambda: lock.turn(timeout=0.2).__enter__())")
            assert (kind, f"process {one.pid} " in told) == ("LockTimeoutError", True)
            one.do("turn.release()")
            assert other.do("lock.turn(timeout=5).__enter__().held")

    def test_a_folder_that_cannot_be_written(self, of_nobody, tmp_path):
        of_nobody.chmod(0o666)
        with Party(of_nobody, user=NOBODY) as keeps_the_log_open:
            keeps_the_log_open.do("writer = BatchWriter(path, turn_lock=False)")
            keeps_the_log_open.do("writer.execute(SAVE, ('a', 0))")
            os.chown(tmp_path, os.geteuid(), os.getegid())
            tmp_path.chmod(0o755 if os.geteuid() == 0 else 0o555)
            with Party(of_nobody, user=NOBODY) as other:
                other.do(
                    "told = []\n"
                    "from turnwise import events\n"
                    "hears = events.on_event(lambda event: told.append(event.kind))\n"
                    "writer = BatchWriter(path)\n"
                    "for number in range(10): writer.execute(SAVE, ('b', number))\n"
                    "writer.close(); time.sleep(0.2)"
                )
                assert other.do("told.count('degraded')") == 1
                other.do("lock = TurnLock(path)")
                assert other.do("lock.turn().__enter__().held") is False
                assert "cannot be opened" in other.do("lock.unavailable")
        assert not side(of_nobody).exists()
        tmp_path.chmod(0o755)
        assert len(landed(of_nobody)) == 11


def test_no_descriptors_left(path):
    """A lock that finds no descriptor for its files goes on without, and queues later."""
    with Party(path) as party:
        party.do("import asyncio, resource")
        party.do(
            "lock = TurnLock(path)\n"
            "spare = TurnLock(path)\n"
            "taken = []\n"
            "def exhaust(left):\n"
            " resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))\n"
            " try:\n"
            "  while True: taken.append(os.open('/dev/null', os.O_RDONLY))\n"
            " except OSError: pass\n"
            " for _ in range(left): os.close(taken.pop())\n"
            "def give_back():\n"
            " while taken: os.close(taken.pop())\n"
        )
        for left in (0, 1):
            party.do(f"exhaust({left})")
            assert party.do("lock.turn(timeout=5).__enter__().held") is False
            party.do("give_back(); time.sleep(1.1)")
            party.do("turn = lock.turn(timeout=5).__enter__()")
            assert party.do("turn.held") is True
            party.do("turn.release(); del turn; lock = TurnLock(path)")
            for suffix in SIDES:
                side(path, suffix).unlink()
            party.do("del spare; lock = None; lock = spare = TurnLock(path)")
        party.do("turn = lock.turn().__enter__(); turn.release()")
        party.do("async def ask():\n async with lock.turn(timeout=5) as turn: return turn.held")
        party.do("loop = asyncio.new_event_loop(); exhaust(0)")
        assert party.do("loop.run_until_complete(ask())") is True
        party.do("give_back()")


def test_a_writer_finds_no_descriptors(path):
    with Party(path) as party:
        party.do("import resource\nwriter = BatchWriter(path)\nwriter.execute(SAVE, ('a', 0))")
        for suffix in SIDES:
            side(path, suffix).unlink()
        party.do(
            "time.sleep(0.2)\n"
            "resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))\n"
            "taken = []\n"
            "try:\n"
            " while True: taken.append(os.open('/dev/null', os.O_RDONLY))\n"
            "except OSError: pass"
        )
        party.do("for number in range(1, 20): writer.execute(SAVE, ('a', number))")
        party.do("while taken: os.close(taken.pop())")
        party.do("time.sleep(1.1)\nwriter.execute(SAVE, ('a', 20))")
    assert side(path).exists()
    assert len(landed(path)) == 21


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_to_the_database_leads_to_its_turn(path, tmp_path, exists):
    if not exists:
        path.unlink()
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "first").symlink_to("../second")
    (tmp_path / "second").symlink_to(path.name)
    link = tmp_path / "links" / "first"
    with BatchWriter(link) as writer:
        writer.execute("CREATE TABLE IF NOT EXISTS other (number INTEGER)")
        assert side(path).exists()
        assert not side(link).exists()
        assert not side(tmp_path / "second").exists()
        with Party(path) as holder:
            holder.do("lock = TurnLock(path); turn = lock.turn().__enter__()")
            assert locked_by(side(path)) == {holder.pid}
            began = time.monotonic()
            future = writer.submit("INSERT INTO other VALUES (1)")
            with pytest.raises(TimeoutError):
                future.result(0.3)
            holder.do("turn.release()")
            future.result(5)
            assert 0.3 <= time.monotonic() - began < 5
    assert free(path)


def test_a_hard_link_writes_on(tmp_path):
    path = make_database(tmp_path / "a.db", "delete")
    os.link(path, tmp_path / "b.db")
    crew = "for number in range(100): writer.execute(SAVE, (str(os.getpid()), number))"
    with Party(path) as one, Party(tmp_path / "b.db") as other:
        for party in (one, other):
            party.do("writer = BatchWriter(path, journal_mode='delete')")
            party.start(crew)
        for party in (one, other):
            party.reply(60)
    assert sorted(landed(path).values()) == [1] * 200
