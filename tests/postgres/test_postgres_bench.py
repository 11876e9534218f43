"""The benchmark of PostgreSQL measures what it says, at a small size; what the figures are is not its claim."""

from __future__ import annotations

import pytest
from bench_postgres import client_rate, job_rate, rows, sql_rate
from writing import rows as shown


@pytest.mark.parametrize("mode", ["append", "upsert"])
def test_client_and_job_write_the_same_rows(postgres_dsn, tmp_path, mode):
    """Kind: a figure of a contender that does less than the other one."""
    records, query = rows(1_000), "select id, name, amount, seen from rows order by id"
    rate, batches = job_rate(postgres_dsn, mode, records, tmp_path, 0.3, 0.05)
    written = shown(postgres_dsn, query)
    assert rate > 0
    assert {tuple(record.values()) for record in records} == set(written)
    assert client_rate(postgres_dsn, mode, records, batches) > 0
    assert shown(postgres_dsn, query) == written
    assert len(written) == (sum(batches) if mode == "append" else len(records))
    assert sql_rate(postgres_dsn, mode, records, tmp_path, 0.3, 0.05) > 0
    assert set(shown(postgres_dsn, query)) == set(written)
