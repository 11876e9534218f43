"""A dataflow with every kind of step, whose functions have names, so that it can be pickled."""

from datetime import timedelta

from onceflow import Dataflow, count, sum
from onceflow.connectors.files import CsvSink, CsvSource, JsonLinesSink
from onceflow.state import Processor, ValueState
from onceflow.windows import Tumbling

ROWS = 600


def write_input(path):
    lines = ["id,user,amount,at"]
    lines += [
        f"{number},u{number % 7},{number % 50},2024-01-01T{number // 60:02d}:{number % 60:02d}:00Z"
        for number in range(ROWS)
    ]
    path.write_text("\n".join(lines) + "\n")


def is_even(row):
    return row["id"] % 2 == 0


def doubled(row):
    return {**row, "amount": row["amount"] * 2}


def twice(row):
    return [row, {**row, "id": -row["id"] - 1}]


def same(batch):
    return batch


def positive(batch):
    return [row["amount"] > 0 for row in (batch if isinstance(batch, list) else batch.to_rows())]


def seen(row):
    assert row


def at(row):
    return row["at"]


def user(row):
    return row["user"]


def amount(row):
    return row["amount"]


def running(state, row):
    total = (state or 0) + row["amount"]
    return total, {"user": row["user"], "total": total}


class Visits(Processor):
    visits = ValueState(default=0)

    def process(self, record):
        self.visits.set(self.visits.get() + 1)
        yield {"user": self.key, "visits": self.visits.get()}


def every_step(root, out):
    flow = Dataflow("every-step")
    rows = flow.source("in", CsvSource(root / "in.csv", on_malformed="dead_letter"))
    flow.dead_letters("in").sink("letters", JsonLinesSink(out / "letters"))
    timed = rows.assign_timestamps("times", at)
    plain = timed.filter(is_even).map(doubled, dead_letters="refused").flat_map(twice)
    flow.dead_letters("refused").sink("refused-out", JsonLinesSink(out / "refused"))
    both = plain.map_batch(same).filter_batch(positive).inspect(seen).union(timed)
    once = both.drop_duplicates("once", ["id"], horizon=timedelta(days=9))
    keyed = once.key_by("user", key_type="str")
    keyed.aggregate("totals", emit="final", n=count(), amount=sum(amount)).sink("totals-out", CsvSink(out / "totals"))
    keyed.stateful_map("running", running).sink("running-out", CsvSink(out / "running"))
    once.key_by(user).process("visits", Visits).sink("visits-out", CsvSink(out / "visits"))
    keyed.window("hours", Tumbling(hours=1)).aggregate(n=count()).sink("hours-out", CsvSink(out / "hours"))
    flow.late("hours").sink("late-out", JsonLinesSink(out / "late"))
    return flow
