"""A garden: synchronous sessions behind `yield`, in routes that run in threads."""

from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException, Query, WebSocket
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict
from sqlalchemy import ForeignKey, create_engine, event, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

import turnwise.fastapi

DATABASE = Path(__file__).with_name("garden.db")
engine = create_engine(f"sqlite:///{DATABASE}", connect_args={"check_same_thread": False})


@event.listens_for(engine, "connect")
def wait_for_writers(connection, record):
    connection.execute("PRAGMA journal_mode=WAL")


class Base(DeclarativeBase):
    pass


class Plant(Base):
    __tablename__ = "plant"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(index=True)
    height: Mapped[int | None]
    waterings: Mapped[list["Watering"]] = relationship(back_populates="plant")


class Watering(Base):
    __tablename__ = "watering"
    id: Mapped[int] = mapped_column(primary_key=True)
    plant_id: Mapped[int] = mapped_column(ForeignKey("plant.id"))
    plant: Mapped[Plant] = relationship(back_populates="waterings")


class PlantIn(BaseModel):
    name: str
    height: int | None = None


class PlantOut(PlantIn):
    model_config = ConfigDict(from_attributes=True)
    id: int


@asynccontextmanager
async def lifespan(app):
    Base.metadata.create_all(engine)
    yield
    engine.dispose()


def get_session():
    with Session(engine) as session:
        yield session


Sessions = Annotated[Session, Depends(get_session)]
app = FastAPI(lifespan=lifespan)
turnwise.fastapi.setup(app, engine)


@app.middleware("http")
async def add_header(request, call_next):
    response = await call_next(request)
    response.headers["x-garden"] = "yes"
    return response


def found(session, plant_id):
    plant = session.get(Plant, plant_id)
    if plant is None:
        raise HTTPException(404, "no such plant")
    return plant


@app.post("/plants", response_model=PlantOut, status_code=201)
def create(plant: PlantIn, session: Sessions):
    made = Plant(**plant.model_dump())
    session.add(made)
    session.commit()
    session.refresh(made)
    return made


@app.get("/plants", response_model=list[PlantOut])
def read_all(session: Sessions, offset: int = 0, limit: Annotated[int, Query(le=100)] = 100):
    return session.scalars(select(Plant).order_by(Plant.id).offset(offset).limit(limit)).all()


@app.get("/plants.csv")
def export(session: Sessions):
    def lines():
        for plant in session.scalars(select(Plant).execution_options(yield_per=2)):
            yield f"{plant.id},{plant.name}\n"

    return StreamingResponse(lines(), media_type="text/csv")


@app.get("/names.csv")
def export_alone():
    def lines():
        with Session(engine) as session:
            for name in session.scalars(select(Plant.name).execution_options(yield_per=2)):
                yield f"{name}\n"

    return StreamingResponse(lines(), media_type="text/csv")


@app.get("/plants/{plant_id}", response_model=PlantOut)
def read(plant_id: int, session: Sessions):
    return found(session, plant_id)


@app.patch("/plants/{plant_id}", response_model=PlantOut)
def update(plant_id: int, plant: PlantIn, session: Sessions):
    known = found(session, plant_id)
    for name, value in plant.model_dump(exclude_unset=True).items():
        setattr(known, name, value)
    session.commit()
    return known


@app.delete("/plants/{plant_id}")
def delete(plant_id: int, session: Sessions):
    session.delete(found(session, plant_id))
    session.commit()
    return {"ok": True}


def note_watering(plant_id):
    with Session(engine) as session:
        session.add(Watering(plant_id=plant_id))
        session.commit()


@app.post("/plants/{plant_id}/waterings", status_code=202)
def water(plant_id: int, session: Sessions, background: BackgroundTasks):
    background.add_task(note_watering, found(session, plant_id).id)


@app.get("/plants/{plant_id}/waterings")
def waterings(plant_id: int, session: Sessions):
    return {"count": len(found(session, plant_id).waterings)}


@app.get("/summary")
def summary(session: Annotated[Session, Depends(get_session, scope="function")]):
    return {"plants": session.scalar(select(func.count(Plant.id)))}


def count_plants():
    with Session(engine) as session:
        return session.scalar(select(func.count(Plant.id)))


@app.get("/async-summary")
async def async_summary():
    return {"plants": await run_in_threadpool(count_plants)}


@app.websocket("/counts")
async def counts(websocket: WebSocket):
    await websocket.accept()
    async for _ in websocket.iter_text():
        await websocket.send_json({"plants": await run_in_threadpool(count_plants)})


@app.get("/wrong")
async def wrong(session: Sessions):
    return {"plants": session.scalar(select(func.count(Plant.id)))}


def water_with_the_session_of_the_request(session, plant_id):
    session.add(Watering(plant_id=plant_id))
    session.commit()


@app.post("/plants/{plant_id}/wrong", status_code=202)
def wrong_background(plant_id: int, session: Sessions, background: BackgroundTasks):
    found(session, plant_id)
    background.add_task(water_with_the_session_of_the_request, session, plant_id)
