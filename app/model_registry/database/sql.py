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
"""Rows in one statement: few enough for the statement timeout, enough to be fast."""


def in_array(column: InstrumentedAttribute[Any], values: Collection[Any]) -> ColumnElement[bool]:
    """`column IN values` with one array parameter, because the protocol allows at most 32 767 parameters."""
    return column == any_(array(values, column.type))


def in_bound_array(column: InstrumentedAttribute[Any], name: str) -> ColumnElement[bool]:
    """`in_array` for a statement that is built once; the values are the parameter of this name."""
    return column == any_(bindparam(name, type_=ARRAY(column.type)))


def array(values: Collection[Any], item: TypeEngine[Any]) -> ColumnElement[Any]:
    """A PostgreSQL array, bound as one parameter."""
    return literal(list(values), ARRAY(item))


def parameter_rows(**columns: TypeEngine[Any]) -> TableValuedAlias:
    """Rows from array parameters, one array for each column: one statement for any number of rows."""
    arrays = (bindparam(name, type_=ARRAY(item)) for name, item in columns.items())
    return func.unnest(*arrays).table_valued(*columns).render_derived(name="new")


def is_in(state: VersionState, version: type[ModelInfoDB] = ModelInfoDB) -> ColumnElement[bool]:
    """Whether a version is in this state.

    The state is part of the statement, not a parameter. After some executions PostgreSQL uses a plan that is made
    without the parameters' values, and such a plan cannot use the partial indexes on a state.
    """
    return version.state == literal_column(f"'{state}'")


def latest(
    column: SQLColumnExpression[T], version: type[ModelInfoDB], model_name: SQLColumnExpression[str]
) -> Select[T]:
    """`column` of the latest version of a model: releases before pre-releases, then precedence, then number.

    A yanked version is never the latest. `version` is the table or an alias of it.
    """
    return (
        select(column)
        .where(version.model_name == model_name, is_in(VersionState.READY, version), version.yanked_at.is_(None))
        .order_by(version.is_prerelease, version.precedence.desc(), version.number.desc())
        .limit(1)
    )


def seconds(number: float) -> ColumnElement[timedelta]:
    """An interval, bound as a parameter. Times always come from the database's clock."""
    return literal(timedelta(seconds=number), Interval)
