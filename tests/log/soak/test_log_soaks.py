"""The soaks of ``make soak-log``, in small."""

from __future__ import annotations

from bank import run_bank
from copier import run_copiers


def test_copiers_that_are_killed_copy_each_number_once_and_in_order(tmp_path):
    report = run_copiers(tmp_path, records=10_000, transaction=750, pause_s=0.02, seed=1)
    # Each copier needs seven for its 5,000 numbers. One that was killed between the commit and its record of it
    # committed all the same, and the history can only call it indefinite.
    assert report.committed + report.indefinite >= 14
    assert report.aborted >= 1
    assert report.abandoned + report.indefinite >= 1


def test_the_total_is_constant_in_every_view(tmp_path):
    result = run_bank(tmp_path, seconds=4, longest_s=0.5, seed=1)
    assert result.views > 20
    assert result.transfers > 20
    assert result.kills > 5
