"""Small pieces of SQL that several repositories use."""

from datetime import timedelta

from sqlalchemy import ColumnElement, Interval, literal


def seconds(number: float) -> ColumnElement[timedelta]:
    """An interval, bound as a parameter; times themselves always come from the database's clock."""
    return literal(timedelta(seconds=number), Interval)
