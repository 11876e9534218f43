"""Several sinks at once, a function that is not deterministic, concurrent producers, kills and zombies: a small sample.

The kind of fault: one sink shows what another one does not, because a record was processed again and came out
differently, or because a run that was replaced wrote once more. ``make crash-mixed`` plays 2,000 lives.
"""

from __future__ import annotations

import random

from mixed import Tally, run_mixed


def test_all_sinks_agree_on_each_input_whoever_is_killed_stopped_or_woken(tmp_path):
    tally = Tally()
    for number in range(2):
        run_mixed(tmp_path / str(number), lives=20, chance=random.Random(20_240_500 + number), tally=tally)
    assert tally.inputs > 0
    assert tally.woken > 0
