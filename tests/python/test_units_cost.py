"""What a unit of work adds to a call that succeeds, in counts. Never in time."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

COUNT = """
import dis, sys
{loaded}
from turnwise.units import retry, retry_on_deadlock

def plain(a, b=2, *, c=3):
    return a

async def coroutine(a, b=2, *, c=3):
    return a

def drive(made):
    try:
        made.send(None)
    except StopIteration as stop:
        return stop.value

def count(unit, call):
    seen = {{"python": [], "c": []}}

    def profile(frame, event, argument):
        if event == "call":
            seen["python"].append(frame.f_code.co_name)
        elif event == "c_call":
            seen["c"].append(argument.__name__)

    call()
    sys.setprofile(profile)
    call()
    sys.setprofile(None)
    seen["c"] = [name for name in seen["c"] if name not in ("setprofile", "send")]
    seen["python"] = [name for name in seen["python"] if name not in ("<lambda>", "drive")]
    names = [instruction.opname for instruction in dis.get_instructions(unit)]
    seen["instructions"] = names.index("RETURN_VALUE")
    return seen

for decorate in (retry_on_deadlock, retry, retry(max_attempts=5)):
    unit, later = decorate(plain), decorate(coroutine)
    print(count(unit, lambda: unit(1, c=4)))
    print(count(later, lambda: drive(later(1, c=4))))
"""


@pytest.mark.parametrize("loaded", ["import sqlalchemy.orm", ""])
def test_success_reads_the_clock_and_calls_the_function(loaded):
    done = subprocess.run(
        [sys.executable, "-c", COUNT.format(loaded=loaded)],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [eval(line) for line in done.stdout.splitlines()]
    assert len(lines) == 6
    for index, seen in enumerate(lines):
        wrapper, function = ("attempt", "coroutine") if index % 2 else ("attempt", "plain")
        # Where SQLAlchemy is installed and not loaded, each call looks whether it is now.
        watching = [] if loaded else ["watching"]
        # Outside of a task there is no mark to be left, and every call of a coroutine tries.
        tries = ["join", "current_task", "get_running_loop", "get"] if index % 2 else []
        assert [name for name in seen["python"] if name not in [*watching, *tries]] == [
            wrapper,
            function,
        ]
        assert [name for name in seen["c"] if name not in tries] == ["monotonic_ns"]
        # Up to the first return; 13 and 45 in Python 3.11, fewer in others.
        assert seen["instructions"] <= (46 if index % 2 else 14)


def test_import_of_the_decorators_does_not_load_sqlalchemy():
    code = "import sys, turnwise.units; print(sorted({'sqlalchemy', 'asyncio', 'greenlet'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_coroutine_unit_adds_one_coroutine():
    from turnwise.units import retry_on_deadlock

    async def work():
        return sys._getframe(1).f_code.co_name

    assert asyncio.run(retry_on_deadlock(work)()) == "attempt"
