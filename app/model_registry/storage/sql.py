"""Small pieces of SQL that several repositories use."""

from collections.abc import Collection
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, Interval, any_, literal
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.types import TypeEngine

BATCH = 5000
"""Rows in one statement: few enough for the statement timeout, many enough to be quick."""


def among(column: InstrumentedAttribute[Any], values: Collection[Any]) -> ColumnElement[bool]:
    """`column IN values`, as one parameter however many there are: the protocol takes 32 767 at most."""
    return column == any_(array(values, column.type))


def array(values: Collection[Any], item: TypeEngine[Any]) -> ColumnElement[Any]:
    """A PostgreSQL array, bound as one parameter."""
    return literal(list(values), ARRAY(item))


def seconds(number: float) -> ColumnElement[timedelta]:
    """An interval, bound as a parameter; times themselves always come from the database's clock."""
    return literal(timedelta(seconds=number), Interval)
