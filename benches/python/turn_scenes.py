"""Scenes of the bench across processes: killed holders, queued threads, one writer alone."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from crowd import HERE, RUST, Disk
from turn_sides import landed, remove
from turnwise.cli.story import percentiles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from turns import Bench

Look = TypeVar("Look")

SIDES = ("timeout", "dropin", "batch")
WAITERS = 3
QUEUED = 4
IN_LINE = 0.04
"""Seconds after which waiters surely stand in line."""
SLEEPS_AND_POLLS = {
    *("nanosleep", "clock_nanosleep", "sched_yield", "select", "pselect6", "poll", "ppoll"),
    *("epoll_wait", "epoll_pwait", "fcntl", "flock"),
}


def measure(bench: Bench) -> dict[str, Any]:
    """All scenes."""
    kills: dict[str, Any] = {}
    queues: dict[str, Any] = {}
    sides = [side for side in SIDES if bench.has(side, "full")]
    for disk in bench.disks.values():
        for side in (*sides, "flock"):
            bench.say(f"turns: killed holders, {disk.name}, {side}")
            path = bench.path(disk.name, side)
            kills[f"{disk.name}/{side}"] = killed(disk, side, path, bench.plan.kills)
            remove(path)
    real = bench.disks["real"]
    for side in sides:
        bench.say(f"turns: queued threads, {side}")
        path = bench.path("real", side)
        queues[side] = queued(real, side, path, bench.plan.look)
        remove(path)
    bench.say("turns: one thread alone")
    rounds = []
    for number in range(bench.plan.rounds):
        folder = os.path.join(real.folder, f"alone-{number}")
        os.mkdir(folder)
        python = real.told(HERE / "turn_actors.py", "alone", folder, bench.plan.blocks)
        with real.run([str(RUST), "turns", folder, str(bench.plan.blocks)]) as process:
            text, _ = process.communicate()
        shutil.rmtree(folder)
        rounds.append({"python": python, "rust": json.loads(text)})
    return {"kills": kills, "queued": queues, "alone": rounds}


@contextmanager
def actor(disk: Disk, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A process of `turn_actors.py` that is ready."""
    command = [sys.executable, str(HERE / "turn_actors.py"), *map(str, arguments)]
    process = disk.run(command, stdin=subprocess.PIPE)
    try:
        if answer(process) != "ready":
            raise SystemExit(f"not ready: {arguments}")
        yield process
        process.stdin.close()  # type: ignore[union-attr]
        process.wait(60)
    finally:
        process.kill()
        process.wait()


def tell(process: subprocess.Popen[str]) -> None:
    """Sends a line."""
    process.stdin.write("go\n")  # type: ignore[union-attr]
    process.stdin.flush()  # type: ignore[union-attr]


def answer(process: subprocess.Popen[str]) -> str:
    """The next line."""
    return str(process.stdout.readline()).strip()  # type: ignore[union-attr]


def killed(disk: Disk, side: str, path: str, kills: int) -> dict[str, Any]:
    """Milliseconds from the SIGKILL of a holder to the next commit, with others waiting."""
    times = []
    with ExitStack() as stack:
        waiters = [stack.enter_context(actor(disk, "waiter", side, path)) for _ in range(WAITERS)]
        holders = stack.enter_context(actor(disk, "holders", side, path))
        for _ in range(kills):
            tell(holders)
            holder = int(answer(holders))
            for waiter in waiters:
                tell(waiter)
            time.sleep(IN_LINE)
            at = time.monotonic()
            os.kill(holder, signal.SIGKILL)
            times.append((min(float(answer(waiter)) for waiter in waiters) - at) * 1000)
    told = {"ms": times, **percentiles(times)}
    if side == "flock":
        return told
    return {**told, "saves": kills * WAITERS, "landed": landed(path, 0, 1)}


def queued(disk: Disk, side: str, path: str, seconds: float) -> dict[str, Any]:
    """What threads do that stand in line behind another process.

    Each look is at other threads behind another holder: behind a turn that stands still for two
    seconds nobody stands in line any more.
    """
    woken = in_line(disk, side, path, lambda process: woken_in(process, seconds))
    calls = in_line(disk, side, path, lambda process: traced(process, seconds))
    return {
        "threads": len(woken),
        "wake_ups_per_second": max(woken.values()) / seconds,
        "calls": calls,
        "sleeps_and_polls": None
        if calls is None
        else sum(number for name, number in calls.items() if name in SLEEPS_AND_POLLS) / seconds,
        "saves": QUEUED * 2,
        "landed": landed(path, 0, QUEUED),
    }


def in_line(disk: Disk, side: str, path: str, look: Callable[[int], Look]) -> Look:
    """What a look at a process tells whose threads stand in line."""
    with actor(disk, "holders", side, path) as holders:
        tell(holders)
        holder = int(answer(holders))
        with actor(disk, "queued", side, path, QUEUED) as process:
            time.sleep(IN_LINE * 3)
            seen = look(process.pid)
            os.kill(holder, signal.SIGKILL)
            if answer(process) != "ended":
                raise SystemExit(f"the queued threads of {side} failed")
    return seen


def woken_in(process: int, seconds: float) -> dict[int, int]:
    """How often each thread but the main one has gone to sleep meanwhile."""
    before = wake_ups(process)
    time.sleep(seconds)
    after = wake_ups(process)
    return {thread: after[thread] - before.get(thread, 0) for thread in after}


def wake_ups(process: int) -> dict[int, int]:
    """How often each thread but the main one has gone to sleep by itself."""
    found = {}
    for task in Path(f"/proc/{process}/task").iterdir():
        text = (task / "status").read_text(encoding="utf-8")
        count = re.search(r"^voluntary_ctxt_switches:\s+(\d+)$", text, re.MULTILINE)
        if int(task.name) != process and count is not None:
            found[int(task.name)] = int(count.group(1))
    return found


def traced(process: int, seconds: float) -> dict[str, int] | None:
    """The system calls that the threads but the main one begin meanwhile; None without strace.

    The call in which a thread is found is not counted.
    """
    strace = shutil.which("strace")
    if strace is None:
        return None
    with subprocess.Popen(
        [strace, "-f", "-qq", "-p", str(process)], stderr=subprocess.PIPE, text=True
    ) as tracer:
        time.sleep(seconds)
        tracer.send_signal(signal.SIGINT)
        _, text = tracer.communicate()
    begun: Counter[str] = Counter()
    known: set[str] = set()
    for thread, call in re.findall(r"^\[pid\s+(\d+)\] (\w+)\(", text, re.MULTILINE):
        if thread != str(process) and thread in known:
            begun[call] += 1
        known.add(thread)
    return dict(begun)
