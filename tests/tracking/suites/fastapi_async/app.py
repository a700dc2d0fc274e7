"""A shelf of books: asynchronous sessions behind `yield`."""

import asyncio
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException, WebSocket
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import turnwise.fastapi

DATABASE = Path(__file__).with_name("shelf.db")
engine = create_async_engine(f"sqlite+aiosqlite:///{DATABASE}")
make_session = async_sessionmaker(engine, expire_on_commit=False)


class Base(DeclarativeBase):
    pass


class Book(Base):
    __tablename__ = "book"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    lent: Mapped[int] = mapped_column(default=0)


class BookIn(BaseModel):
    title: str


class BookOut(BookIn):
    model_config = ConfigDict(from_attributes=True)
    id: int
    lent: int


@asynccontextmanager
async def lifespan(app):
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield
    await engine.dispose()


async def get_session():
    async with make_session() as session:
        yield session


Sessions = Annotated[AsyncSession, Depends(get_session)]
app = FastAPI(lifespan=lifespan)
turnwise.fastapi.setup(app, engine)


@app.post("/books", response_model=BookOut, status_code=201)
async def create(book: BookIn, session: Sessions):
    made = Book(title=book.title)
    session.add(made)
    await session.commit()
    return made


@app.get("/books", response_model=list[BookOut])
async def read_all(session: Sessions):
    return (await session.scalars(select(Book).order_by(Book.id))).all()


@app.get("/books.txt")
async def export(session: Sessions):
    async def lines():
        async for title in await session.stream_scalars(select(Book.title).order_by(Book.id)):
            yield f"{title}\n"

    return StreamingResponse(lines(), media_type="text/plain")


async def note_loan(book_id):
    async with make_session.begin() as session:
        book = await session.get(Book, book_id)
        book.lent += 1


@app.post("/books/{book_id}/loans", status_code=202)
async def lend(book_id: int, session: Sessions, background: BackgroundTasks):
    if await session.get(Book, book_id) is None:
        raise HTTPException(404)
    background.add_task(note_loan, book_id)


async def count():
    async with make_session() as session:
        return await session.scalar(select(func.count(Book.id)))


@app.get("/summary")
async def summary():
    return await asyncio.gather(count(), count(), count())


@app.websocket("/counts")
async def counts(websocket: WebSocket, session: Sessions):
    await websocket.accept()
    async for _ in websocket.iter_text():
        await websocket.send_json(await session.scalar(select(func.count(Book.id))))
        await session.rollback()


@app.get("/wrong")
async def wrong(session: Sessions):
    await session.scalar(select(func.count(Book.id)))
    later.append(asyncio.create_task(use_after_the_response(session)))


later = []


async def use_after_the_response(session):
    await asyncio.sleep(0.1)
    await session.scalar(select(func.count(Book.id)))
    await session.close()


async def lend_with_the_session_of_the_request(session, book_id):
    book = await session.get(Book, book_id)
    book.lent += 1
    await session.commit()


@app.post("/books/{book_id}/wrong", status_code=202)
async def wrong_background(book_id: int, session: Sessions, background: BackgroundTasks):
    await session.get(Book, book_id)
    background.add_task(lend_with_the_session_of_the_request, session, book_id)
