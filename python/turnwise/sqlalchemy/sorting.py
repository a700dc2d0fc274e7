"""Batches of UPDATE, DELETE and upsert in the order of the rows that they lock.

Two batches that lock the same rows in opposite orders wait for each other until the database ends
one of them. Sorted by key, the later one waits and goes on. What is sorted is only what the driver
gets: SQLAlchemy's own list stays as it is. docs/sqlalchemy-sqlite.md has the rules.
"""

from __future__ import annotations

import re
import weakref
from datetime import date
from operator import itemgetter
from typing import TYPE_CHECKING, Any
from uuid import UUID

from sqlalchemy import (
    CheckConstraint,
    Date,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    String,
    Table,
    Uuid,
)
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.sql import operators
from sqlalchemy.sql.dml import Delete, Insert, Update
from sqlalchemy.sql.elements import (
    BinaryExpression,
    BindParameter,
    BooleanClauseList,
    ColumnClause,
)
from sqlalchemy.sql.schema import ColumnCollectionConstraint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sqlalchemy import Column
    from sqlalchemy.sql.compiler import SQLCompiler
    from sqlalchemy.sql.elements import ColumnElement

    Plan = Callable[[Any], Any]
    Names = dict[Column[Any], str]

_QUOTED = re.compile(r"""'[^']*'|"[^"]*"|`[^`]*`|\[[^\]]*\]""")
_HEAD = re.compile(r"\A\s*INSERT\s+INTO\s+\S+\s*\(", re.IGNORECASE)
# Another row, or what came before, decides.
_WORDS = re.compile(r"\b(SELECT|LIMIT|RETURNING|USING|NEXTVAL|RAND|RANDOM)\b", re.IGNORECASE)
_CALL = re.compile(r"([A-Za-z_]\w*)\s*\(")
# What may stand before a parenthesis: these depend on their arguments, or are the same for all.
_PLAIN = frozenset(
    {"AND", "CAST", "COALESCE", "CONCAT", "CONFLICT", "CURRENT_TIMESTAMP", "GREATEST", "LEAST"}
    | {"LOWER", "NOT", "NOW", "NULLIF", "OR", "UPPER", "VALUES"}
)
_ORDERED = (int, UUID, date)
_EXACT = (Integer, String, Uuid, Date, LargeBinary)
_ASCII = re.compile(r"[ -~]*\Z")


class Sorting:
    """The layer that sorts the parameter sets of one dialect's batches."""

    def __init__(self) -> None:
        self._plans: weakref.WeakKeyDictionary[SQLCompiler, Plan | None] = (
            weakref.WeakKeyDictionary()
        )

    def do_executemany(
        self,
        proceed: Callable[..., Any],
        cursor: Any,
        statement: str,
        parameters: Any,
        context: Any = None,
    ) -> Any:
        """Run a batch, by key where nobody can tell the order."""
        compiled = None if context is None else context.compiled
        if compiled is not None and not context.execution_options.get("turnwise_unsorted"):
            try:
                plan = self._plans[compiled]
            except KeyError:
                plan = self._plans[compiled] = _plan(compiled)
            if plan is not None and _is_in_transaction(context):
                parameters = _by_key(parameters, plan)
        return proceed(cursor, statement, parameters, context)


def layer() -> Sorting:
    """The layer for a dialect."""
    return Sorting()


def _is_in_transaction(context: Any) -> bool:
    """Whether a batch lands as a whole; if not, where it fails tells its order."""
    level = context.execution_options.get("isolation_level")
    if level is None:
        level = context.dialect._on_connect_isolation_level  # noqa: SLF001 - create_engine's
    return bool(level != "AUTOCOMMIT")


def _by_key(sets: Sequence[Any], plan: Plan) -> Sequence[Any]:
    """The parameter sets by key, those of one key in their order; as they are if unsure."""
    keys = [plan(values) for values in sets]
    columns = list(zip(*keys, strict=True))
    if not all(_is_ordered(column) for column in columns):
        return sets
    order = sorted(range(len(keys)), key=keys.__getitem__)
    return [sets[at] for at in order]


def _is_ordered(values: tuple[Any, ...]) -> bool:
    """Whether Python's order has one place for what the database takes for equal."""
    kinds = set(map(type, values))
    if len(kinds) != 1:
        return False
    (kind,) = kinds
    if kind in _ORDERED:
        return True
    if kind is str:
        # A collation may ignore case, accents, ligatures and trailing blanks.
        distinct = set(values)
        return all(map(_ASCII.match, distinct)) and len(distinct) == len(
            {value.lower().rstrip() for value in distinct}
        )
    # BINARY(n) is filled up with zeros.
    return kind is bytes and len(set(map(len, values))) == 1


def _plan(compiled: SQLCompiler) -> Plan | None:
    """How to find the key in a parameter set; none for a statement whose order may be observed."""
    statement = compiled.statement
    table = getattr(statement, "table", None)
    if not isinstance(table, Table) or not _depends_on_its_row_alone(compiled):
        return None
    try:
        if isinstance(statement, Insert):
            names = _upsert_key(statement, table, compiled)
        elif isinstance(statement, (Update, Delete)):
            names = _where_key(statement, table, compiled)
        else:
            return None
    except SQLAlchemyError:
        return None  # A foreign key leads to a table that is not known.
    if not names or not all(map(_is_exact, names)):
        return None
    return _getter(compiled, list(names.values()))


def _depends_on_its_row_alone(compiled: SQLCompiler) -> bool:
    if compiled.effective_returning or compiled.post_compile_params:
        return False
    if getattr(compiled.compile_state, "_extra_froms", None):
        return False
    text = _HEAD.sub("(", _QUOTED.sub("q", compiled.string))
    if _WORDS.search(text):
        return False
    return all(word.upper() in _PLAIN for word in _CALL.findall(text))


def _is_exact(column: Column[Any]) -> bool:
    """Whether the server compares what it is given; times and decimals may be rounded before."""
    kind: Any = column.type
    return isinstance(getattr(kind, "impl_instance", kind), _EXACT)


def _upsert_key(statement: Insert, table: Table, compiled: SQLCompiler) -> Names | None:
    """The primary key, where an INSERT gives it and no other key may be in the way.

    A generated key tells the order. So does a row that another one refers to.
    """
    clause = getattr(statement, "_post_values_clause", None)
    if clause is None or statement.select is not None or statement._multi_values:  # noqa: SLF001
        return None
    if _unique_columns(table) - set(table.primary_key.columns) or _refers_to_itself(table):
        return None
    target = getattr(clause, "inferred_target_elements", None)
    keys = {column: column.key for column in table.primary_key.columns}
    if target is not None and {getattr(one, "key", one) for one in target} != set(keys.values()):
        return None
    return keys if all(key in compiled.binds for key in keys.values()) else None


def _where_key(statement: Update | Delete, table: Table, compiled: SQLCompiler) -> Names | None:
    """The parameters that the key columns, or else all columns of WHERE, have to be equal to."""
    given: Names = {}
    for key, name in _equalities(statement.whereclause, compiled):
        if name and key in table.columns:
            given.setdefault(table.columns[key], name)
    primary = list(table.primary_key.columns)
    is_whole = bool(primary) and all(column in given for column in primary)
    wanted = primary if is_whole else [column for column in table.columns if column in given]
    if isinstance(statement, Delete):
        if _refers_to_itself(table):
            return None
    else:
        # A value may have to be free before another row gets it.
        held = _unique_columns(table) | set(table.primary_key.columns) | set(wanted)
        if held & _changed(statement, table, compiled):
            return None
    return {column: given[column] for column in wanted}


def _equalities(
    clause: ColumnElement[Any] | None, compiled: SQLCompiler
) -> Iterator[tuple[str, str]]:
    """The columns that have to be equal to a parameter, and the parameters, by name."""
    if isinstance(clause, BooleanClauseList) and clause.operator is operators.and_:
        for part in clause.clauses:
            yield from _equalities(part, compiled)
    elif isinstance(clause, BinaryExpression) and clause.operator is operators.eq:
        for column, value in ((clause.left, clause.right), (clause.right, clause.left)):
            if isinstance(column, ColumnClause) and isinstance(value, BindParameter):
                yield str(column.key), compiled.bind_names.get(value, "")


def _changed(statement: Update, table: Table, compiled: SQLCompiler) -> set[Column[Any]]:
    """The columns that an UPDATE sets: those of its own, of the parameters, and by default."""
    names = {getattr(key, "key", key) for key in statement._values or ()}  # noqa: SLF001
    ordered = getattr(statement, "_ordered_values", None)  # SQLAlchemy 2.0.
    names |= {getattr(key, "key", key) for key, _ in ordered or ()}
    names |= set(compiled.column_keys or ())
    return {
        column for column in table.columns if column.key in names or column.onupdate is not None
    }


def _unique_columns(table: Table) -> set[Column[Any]]:
    """The columns of which SQLAlchemy knows that other rows decide what they may hold."""
    held: set[Column[Any]] = {column for column in table.columns if column.unique}
    for index in table.indexes:
        if index.unique:
            held |= set(_columns_of(index, table))
    for constraint in table.constraints:
        # PostgreSQL's exclusion constraint is another class.
        if isinstance(constraint, ColumnCollectionConstraint):
            is_plain = isinstance(constraint, (PrimaryKeyConstraint, ForeignKeyConstraint))
            if not is_plain and not isinstance(constraint, CheckConstraint):
                held |= set(constraint.columns)
    return held


def _columns_of(index: Index, table: Table) -> Iterator[Column[Any]]:
    # An index on expressions may hold any column.
    plain = list(index.columns)
    yield from plain if len(plain) == len(index.expressions) else table.columns


def _refers_to_itself(table: Table) -> bool:
    return any(key.column.table is table for key in table.foreign_keys)


def _getter(compiled: SQLCompiler, names: list[str]) -> Plan:
    """A function that takes the key out of a parameter set, as a tuple."""
    places: list[Any] = names
    if compiled.positional:
        order = list(compiled.positiontup or ())
        places = [order.index(name) for name in names]
    elif compiled.escaped_bind_names:
        places = [compiled.escaped_bind_names.get(name, name) for name in names]
    get = itemgetter(*places)
    return get if len(places) > 1 else lambda values: (get(values),)
