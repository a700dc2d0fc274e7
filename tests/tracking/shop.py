"""What the applications of these tests store."""

from __future__ import annotations

from sqlalchemy import ForeignKey
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship


class Base(DeclarativeBase):
    pass


class Part(Base):
    __tablename__ = "part"
    id: Mapped[int] = mapped_column(primary_key=True)
    item_id: Mapped[int] = mapped_column(ForeignKey("item.id"))


class Item(Base):
    __tablename__ = "item"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    parts: Mapped[list[Part]] = relationship()


SCHEMA = """
    CREATE TABLE item (id INT PRIMARY KEY, name VARCHAR(50) NOT NULL);
    CREATE TABLE part (id INT PRIMARY KEY, item_id INT NOT NULL REFERENCES item (id));
    INSERT INTO item VALUES (1, 'tea'), (2, 'milk');
    INSERT INTO part VALUES (1, 1);
"""
