"""The benchmark of PostgreSQL measures what it says, at a small size; what the figures are is not its claim."""

from __future__ import annotations

import pytest
from bench_postgres import client_rate, job_rate, rows
from writing import rows as shown


@pytest.mark.parametrize("mode", ["append", "upsert"])
def test_client_and_job_write_the_same_rows(postgres_dsn, tmp_path, mode):
    """Kind: a figure of a contender that does less than the other one."""
    records = rows(1_000)
    columns = "id, name, amount, seen"
    expected = sorted((row["id"], row["name"], row["amount"], row["seen"]) for row in records)
    for rate in (
        lambda: client_rate(postgres_dsn, mode, records, 0.1, 0.05),
        lambda: job_rate(postgres_dsn, mode, records, tmp_path, 0.1, 0.05),
    ):
        assert rate() > 0
        assert sorted(set(shown(postgres_dsn, f"select {columns} from rows"))) == expected
