"""Small pieces of SQL that several repositories use."""

from collections.abc import Collection
from datetime import timedelta
from typing import Any, TypeVar

from sqlalchemy import (
    ColumnElement,
    Interval,
    Select,
    SQLColumnExpression,
    TableValuedAlias,
    any_,
    bindparam,
    func,
    literal,
    literal_column,
    select,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.types import TypeEngine

from model_registry.db_models import ModelInfoDB
from model_registry.domain.entities import VersionState

T = TypeVar("T")

BATCH = 5000
"""Rows in one statement: few enough for the statement timeout, many enough to be quick."""


def among(column: InstrumentedAttribute[Any], values: Collection[Any]) -> ColumnElement[bool]:
    """`column IN values`, as one parameter however many there are: the protocol takes 32 767 at most."""
    return column == any_(array(values, column.type))


def among_bound(column: InstrumentedAttribute[Any], name: str) -> ColumnElement[bool]:
    """The same for a statement that is built once: the values come later, as the parameter of this name."""
    return column == any_(bindparam(name, type_=ARRAY(column.type)))


def array(values: Collection[Any], item: TypeEngine[Any]) -> ColumnElement[Any]:
    """A PostgreSQL array, bound as one parameter."""
    return literal(list(values), ARRAY(item))


def new_rows(**columns: TypeEngine[Any]) -> TableValuedAlias:
    """Rows of these columns, of which each is bound as an array under its own name: one statement for any number."""
    arrays = (bindparam(name, type_=ARRAY(item)) for name, item in columns.items())
    return func.unnest(*arrays).table_valued(*columns).render_derived(name="new")


def is_in(state: VersionState, version: type[ModelInfoDB] = ModelInfoDB) -> ColumnElement[bool]:
    """Whether a version is in this state. Not a parameter: a plan that is made without the values, which PostgreSQL
    takes after a while, may then use the indexes that are on some states alone."""
    return version.state == literal_column(f"'{state}'")


def latest(
    column: SQLColumnExpression[T], version: type[ModelInfoDB], model_name: SQLColumnExpression[str]
) -> Select[T]:
    """`column` of the latest version of a model: releases before pre-releases, then precedence, then number; what is
    yanked is never the latest. `version` is the table, or an alias of it."""
    return (
        select(column)
        .where(version.model_name == model_name, is_in(VersionState.READY, version), version.yanked_at.is_(None))
        .order_by(version.is_prerelease, version.precedence.desc(), version.number.desc())
        .limit(1)
    )


def seconds(number: float) -> ColumnElement[timedelta]:
    """An interval, bound as a parameter; times themselves always come from the database's clock."""
    return literal(timedelta(seconds=number), Interval)
