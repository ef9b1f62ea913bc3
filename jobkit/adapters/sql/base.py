"""What all tables share: one metadata, how constraints are named where nobody names them, times, partial indexes."""

from __future__ import annotations

import sqlalchemy as sa

CONVENTION = {
    "pk": "%(table_name)s_pkey",
    "ix": "%(table_name)s_%(column_0_N_name)s_idx",
    "uq": "%(table_name)s_%(column_0_N_name)s_key",
}

metadata = sa.MetaData(naming_convention=CONVENTION)

Millis = sa.BigInteger


def partial(name: str, *columns: sa.Column[object], where: str) -> sa.Index:
    clause = sa.text(where)
    return sa.Index(name, *columns, postgresql_where=clause, sqlite_where=clause)
