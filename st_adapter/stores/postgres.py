"""PostgreSQL with pgvector: ``postgresql://USER@HOST/DATABASE#TABLE``; the password from PGPASSWORD or .pgpass."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from st_adapter.stores.store import (
    Address,
    Hits,
    Metric,
    Rows,
    Vectors,
    as_id,
    changed,
    extra_missing,
    in_order,
    lacks,
    text_field,
    unreachable,
    vector_field,
    whole_numbers,
)

# Operator classes of an index on the column -> how it compares; the operators that use it.
_METRICS: dict[str, Metric] = {"vector_cosine_ops": "cosine", "vector_ip_ops": "dot", "vector_l2_ops": "euclidean"}
_OPERATORS: dict[Metric, str] = {"cosine": "<=>", "dot": "<#>", "euclidean": "<->"}
_READABLE = ("vector", "halfvec")
_MAX_CANDIDATES = 1000  # pgvector's own limit
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class PostgresStore:
    """One table of PostgreSQL with a pgvector column; see ``Store``.

    Every read is a transaction that may not write. The columns are ``id`` and the only vector, unless named.
    """

    def __init__(self, address: Address) -> None:
        try:
            import psycopg
            from pgvector.psycopg import register_vector
        except ImportError as error:
            raise extra_missing("PostgreSQL", "postgres", error) from error
        self._psycopg, self._sql = psycopg, psycopg.sql
        self._url = f"{address.scheme}:{address.place}"
        address.required_collection()
        self.address = address.shown
        try:
            self._connection = psycopg.connect(self._url)
        except psycopg.OperationalError as error:
            raise unreachable(address, error) from error
        try:
            self._look_at(address, register_vector)
        except psycopg.Error as error:
            self._connection.close()
            raise ValueError(
                f"{self.address} cannot be read: {error}. The table needs a column of pgvector's, and the user the "
                "right to read it."
            ) from error
        except BaseException:
            self._connection.close()
            raise

    def _look_at(self, address: Address, register_vector: Any) -> None:
        self._connection.read_only = True
        # What is read is the state of one moment, whatever is written meanwhile.
        self._connection.isolation_level = self._psycopg.IsolationLevel.REPEATABLE_READ
        register_vector(self._connection)
        self._table = self._sql.Identifier(*address.collection.split("."))
        columns = self._columns_of(address.collection)
        self._text = text_field(columns, address.options.get("text"), self.address)
        vectors = [name for name, kind in columns.items() if kind in _READABLE]
        self._vector = vector_field(vectors, address.options.get("vector"), self.address)
        self._id = address.options.get("id", "id")
        if self._id not in columns:
            raise lacks(self.address, "column", self._id, list(columns), "with ?id=COLUMN")
        self._id_kind = columns[self._id]
        self._one("SELECT count(*) FROM (SELECT 1 FROM {table} LIMIT 1) AS readable")

    @property
    def count(self) -> int:
        """N, rows with a vector."""
        return int(self._one("SELECT count({vector}) FROM {table}"))

    @property
    def without_vector(self) -> int:
        """Rows that have no vector, and so are no documents."""
        return int(self._one("SELECT count(*) FROM {table}")) - self.count

    @cached_property
    def dimension(self) -> int:
        """D."""
        return int(self._one("SELECT vector_dims({vector}) FROM {table} WHERE {vector} IS NOT NULL LIMIT 1"))

    @cached_property
    def metric(self) -> Metric:
        """How an index on the column compares; without one, Euclidean, as pgvector's own examples search."""
        query = (
            "SELECT opcname FROM pg_index JOIN pg_opclass ON pg_opclass.oid = indclass[0] "
            "JOIN pg_attribute ON attrelid = indrelid AND attnum = indkey[0] "
            "WHERE indrelid = %s::regclass AND attname = %s"
        )
        found = self._connection.execute(query, [self._name, self._vector]).fetchall()
        self._connection.rollback()
        names = [name.replace("halfvec", "vector") for (name,) in found]
        return next((_METRICS[name] for name in names if name in _METRICS), "euclidean")

    def close(self) -> None:
        """Let go of the database."""
        self._connection.close()

    def ids(self) -> list[str]:
        """All ids."""
        rows = self._connection.execute(self._query("SELECT {id}::text FROM {table} WHERE {vector} IS NOT NULL"))
        ids = [as_id(name, self.address) for (name,) in rows]
        self._connection.rollback()
        return ids

    def iterate(self, batch_size: int = 1024) -> Iterator[Rows]:
        """All rows, through a cursor of the server's: the client's own would load everything."""
        expected, read = self.count, 0
        with self._connection.cursor(name="st_adapter_rows") as cursor:
            cursor.itersize = batch_size
            cursor.execute(self._query("SELECT {columns} FROM {table} WHERE {vector} IS NOT NULL"))
            while batch := cursor.fetchmany(batch_size):
                found = [self._row(row) for row in batch]
                read += len(found)
                yield in_order([row[0] for row in found], found, self.address)
        self._connection.rollback()
        if read != expected:
            raise changed(self.address, expected, read)

    def fetch(self, ids: Sequence[str]) -> Rows:
        """The rows with these ids."""
        found = [self._row(row) for row in self._connection.execute(*self._looked_up(ids))]
        self._connection.rollback()
        return in_order(ids, found, self.address)

    def search(self, vectors: Vectors, k: int) -> Hits:
        """PostgreSQL's own search, by the operator of the column's index."""
        operator = _OPERATORS[self.metric]
        query = self._query(
            f"SELECT {{id}}::text, {{vector}} {operator} %s AS distance FROM {{table}} WHERE {{vector}} IS NOT NULL "
            "ORDER BY distance LIMIT %s"
        )
        hits = Hits([], [])
        # An HNSW index finds no more than this, 40 unless told otherwise; it is forgotten with the transaction.
        current = self._connection.execute("SELECT current_setting('hnsw.ef_search', true)").fetchone()
        candidates = min(_MAX_CANDIDATES, max(k, int((current and current[0]) or 0)))
        self._connection.execute("SELECT set_config('hnsw.ef_search', %s, true)", [str(candidates)])
        for vector in vectors:
            rows = self._connection.execute(query, [vector, k]).fetchall()
            hits.ids.append([name for name, _ in rows])
            # <=> is 1 - cosine, <#> the negative dot product.
            hits.scores.append([float(-d if self.metric == "dot" else 1 - d) for _, d in rows])
        self._connection.rollback()
        return hits

    def _columns_of(self, table: str) -> dict[str, str]:
        self._name = ".".join('"{}"'.format(part.replace('"', '""')) for part in table.split("."))
        rows = self._connection.execute(
            "SELECT attname, typname FROM pg_attribute JOIN pg_type ON pg_type.oid = atttypid "
            "WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped",
            [self._name],
        ).fetchall()
        if not rows:
            there = self._connection.execute(
                "SELECT tablename FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
            )
            raise lacks(self.address.partition("#")[0], "table", table, [name for (name,) in there])
        return dict(rows)

    def _looked_up(self, ids: Sequence[str]) -> tuple[Any, list[Any]]:
        """The query for some ids, compared in the column's own type: only so is its index used."""
        kind, wanted = "text", list[Any](ids)
        column = "{id}"
        if self._id_kind in ("int2", "int4", "int8"):
            kind, wanted = "bigint", whole_numbers(ids)
        elif self._id_kind == "uuid":
            kind, wanted = "uuid", [name for name in ids if _UUID.fullmatch(name)]
        elif self._id_kind not in ("text", "varchar"):
            column = "{id}::text"
        where = f"WHERE {column} = ANY(%s::{kind}[]) AND {{vector}} IS NOT NULL"
        return self._query(f"SELECT {{columns}} FROM {{table}} {where}"), [wanted]

    def _query(self, template: str) -> Any:
        names = {"vector": self._sql.Identifier(self._vector), "id": self._sql.Identifier(self._id)}
        text = self._sql.Identifier(self._text) if self._text else self._sql.SQL("NULL")
        columns = self._sql.SQL("{id}::text, {vector}, {text}").format(**names, text=text)
        return self._sql.SQL(template).format(**names, table=self._table, columns=columns)

    def _one(self, template: str) -> Any:
        row = self._connection.execute(self._query(template)).fetchone()
        self._connection.rollback()
        if row is None:
            raise ValueError(f"{self.address} holds no vector. Fill the table first.")
        return row[0]

    @staticmethod
    def _row(row: tuple[Any, ...]) -> tuple[str, object, str | None]:
        name, vector, text = row
        return name, np.asarray(vector.to_list() if hasattr(vector, "to_list") else vector), text
