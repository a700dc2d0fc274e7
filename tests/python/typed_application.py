"""An application as mypy sees it: never run, checked by `test_types.py`."""

from __future__ import annotations

from typing import Literal

import flask
import sqlalchemy as sa
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.ext.asyncio import (
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    mapped_column,
    scoped_session,
    sessionmaker,
)
from typing_extensions import assert_type

import turnwise
import turnwise.http
from turnwise import (
    BatchReport,
    Verdict,
    advisory_lock,
    batch_commit_with_retry,
    claim,
    classify,
    commit_with_retry,
    get_for_update_skip_locked,
    install,
    retry,
    retry_on_deadlock,
    run,
)
from turnwise.flask import Turnwise, add_error_handlers


class Base(DeclarativeBase): ...


class Job(Base):
    __tablename__ = "job"
    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str]
    lease: Mapped[float | None]


engine = install(sa.create_engine("sqlite:///x.db"), strict=True, timeout=3)
assert_type(engine, sa.Engine)
aengine = install(create_async_engine("sqlite+aiosqlite:///x.db"))
S = sessionmaker(engine)
AS = async_sessionmaker(aengine)
scoped = scoped_session(S)


@retry_on_deadlock
def one(a: int, b: str = "x") -> float:
    return 1.0


@retry_on_deadlock(max_attempts=3, initial_delay=0.1, backoff_factor=2)
def two(a: int, *, b: str = "x") -> float:
    return 1.0


@retry(on=ValueError, deadline=3, jitter="equal")
async def three(a: int) -> list[str]:
    return []


class C:
    @classmethod
    @retry
    def f(cls, x: int) -> int:
        return x

    @staticmethod
    @retry_on_deadlock
    def g(x: int) -> int:
        return x

    @retry_on_deadlock(copy_arguments=True)
    def h(self, x: list[int]) -> int:
        return 0


assert_type(one(1), float)
assert_type(two(1, b="y"), float)
assert_type(C.f(1), int)
assert_type(C().h([1]), int)
assert_type(C.g(1), int)


def w(session: Session) -> int:
    return 1


async def aw(session: AsyncSession) -> int:
    return 1


assert_type(run(w, session_factory=S), int)
assert_type(run(w, session_factory=scoped), int)


def add(session: Session, item: int) -> None: ...
async def aadd(session: AsyncSession, item: int) -> None: ...


r = batch_commit_with_retry([1, 2], add, session_factory=S)
assert_type(r, BatchReport[int])
processed, failed = r
assert_type(processed, int)
processed, failed = batch_commit_with_retry([1], add, batch_size=50, session_factory=S)
batch_commit_with_retry([1], lambda s, i: s.add(Job(id=i)), session_factory=S, key=Job)
batch_commit_with_retry(
    [1], add, session_factory=scoped, key=lambda i: i, progress=lambda d, t: print(d)
)
with S() as s:
    assert_type(commit_with_retry(s), Literal[True])
    commit_with_retry(scoped, max_attempts=3)
    commit_with_retry(s, verify=lambda: True)
    jobs = get_for_update_skip_locked(Job, Job.state == "new", limit=10, session=s)
    assert_type(jobs, list[Job])
    get_for_update_skip_locked(Job, Job.state == "new", session=scoped, order_by=[Job.id])
    with advisory_lock(s, "x", timeout=3):
        ...
    with advisory_lock(engine, ("x", 1), namespace="s"):
        ...
with claim(Job, Job.state == "new", session_factory=S) as cl:
    for job in cl:
        assert_type(job, Job)
        cl.session.add(job)
leased = claim(Job, session_factory=S, lease=Job.lease, lease_for=60)
for job in leased:
    leased.complete(job, state="done")


async def main() -> None:
    assert_type(await three(1), list[str])
    assert_type(await run(aw, session_factory=AS), int)
    assert_type(await batch_commit_with_retry([1], aadd, session_factory=AS), BatchReport[int])
    async with AS() as s:
        assert_type(await commit_with_retry(s), Literal[True])
        assert_type(await get_for_update_skip_locked(Job, session=s), list[Job])
        async with advisory_lock(s, "x", timeout=1):
            ...
        async with advisory_lock(aengine, "x"):
            ...
    ascoped = async_scoped_session(AS, scopefunc=lambda: None)
    await commit_with_retry(ascoped, verify=averify)
    async with claim(Job, session_factory=AS) as cl:
        async for job in cl:
            assert_type(job, Job)


async def averify() -> bool:
    return True


try:
    one(1)
except turnwise.TurnwiseError as e:
    print(e.kind)
except Exception as e:
    v = classify(e)
    assert_type(v, Verdict)
    if v.constraint:
        print(v.constraint.name, v.is_retryable)
app = flask.Flask("x")
db = SQLAlchemy(app)
tw = Turnwise(app, db, strict=True)
tw2 = Turnwise()
tw2.init_app(app)


@tw.retry_on_deadlock(max_attempts=3)
def view(a: int) -> str:
    return ""


assert_type(view(1), str)


@tw.retry
def view2(a: int) -> str:
    return ""


assert_type(tw.commit_with_retry(max_attempts=3), Literal[True])
add_error_handlers(app, constraints={"a": (400, "x"), "b": "y"})
p = turnwise.http.problem_of(ValueError())
print(p.status)
one("x")  # type: ignore[arg-type]
two(1, "y")  # type: ignore[call-arg]
retry_on_deadlock(max_retries=3)  # type: ignore[call-overload]
commit_with_retry(engine)  # type: ignore[call-overload]
get_for_update_skip_locked(Job, session=None)  # type: ignore[call-overload]
view("x")  # type: ignore[arg-type]
