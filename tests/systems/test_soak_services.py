"""The soak of ``make soak-services``, in small."""

from __future__ import annotations

from rough import run_rough


def test_a_job_with_many_sinks_is_exact_whatever_happens_to_it_and_its_servers(tmp_path, kafka, postgres, redis):
    """Kind: what no test has thought of, between two kills, two sinks, two transactions. (The fixtures say whether the
    servers can run here.)"""
    figures = run_rough(tmp_path, brokers="one", seconds=45, rate=60, seed=5)
    assert figures.is_exact, f"{figures.wrong}\n{figures.anomalies}"
    assert figures.records > 1000
    assert figures.happened.total() > 5
