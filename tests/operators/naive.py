"""What a dataflow should output, worked out in the plainest way: no batches of state, no restarts, no checkpoints."""

from __future__ import annotations

from onceflow.testing import ABORT, EOF, PAUSE

MARKS = (ABORT, EOF, PAUSE)
FIRST, LAST = -(2**63), 2**63 - 1


def stream(partitions, *, batch_size, delay_us):
    """("batch", records) and ("watermark", time) in the order in which a worker meets them.

    Round by round each partition hands out a batch; a mark is a round without records. The watermark is that of the
    partition that is most behind.
    """
    places = [0] * len(partitions)
    newest = [None] * len(partitions)
    marks = [None] * len(partitions)
    ended = [False] * len(partitions)
    before = FIRST
    while not all(ended):
        round_ = []
        for number, items in enumerate(partitions):
            if ended[number]:
                continue
            if places[number] == len(items):
                round_.append((number, None))
                continue
            records = []
            while places[number] < len(items) and len(records) < batch_size:
                item = items[places[number]]
                if item in MARKS:
                    places[number] += not records
                    break
                records.append(item)
                places[number] += 1
            round_.append((number, records))
        for number, records in round_:
            if records is None:
                ended[number], marks[number] = True, LAST
            elif records:
                yield "batch", records
                newest[number] = max(
                    [*([] if newest[number] is None else [newest[number]]), *(r["t"] for r in records)]
                )
                marks[number] = newest[number] - delay_us
            if None not in marks and min(marks) > before:
                before = min(marks)
                yield "watermark", before


class Totals:
    """``aggregate``: every kind of aggregate; after each batch the totals of its keys."""

    def __init__(self, *, final=False):
        self.final = final
        self.values = {}

    def totals(self, key):
        values = self.values[key]
        return {
            "k": key,
            "n": len(values),
            "total": sum(values),
            "low": min(values),
            "high": max(values),
            "avg": sum(values) / len(values),
            "opened": values[0],
            "closed": values[-1],
        }

    def batch(self, records, _):
        for record in records:
            self.values.setdefault(record["k"], []).append(record["v"])
        return [] if self.final else [self.totals(key) for key in dict.fromkeys(r["k"] for r in records)]

    def watermark(self, _):
        return []

    def end(self):
        return [self.totals(key) for key in sorted(self.values)] if self.final else []


class Windows:
    """Tumbling windows, and the records that came too late for theirs."""

    def __init__(self, *, size_us, offset_us, lateness_us, late):
        self.size, self.offset, self.wait, self.show_late = size_us, offset_us, size_us + lateness_us, late
        self.open = {}

    def batch(self, records, watermark):
        late = []
        for record in records:
            start = record["t"] - (record["t"] - self.offset) % self.size
            if start + self.wait <= watermark:
                late.append(record)
            else:
                self.open.setdefault((start, record["k"]), []).append(record["v"])
        return late if self.show_late else []

    def watermark(self, watermark):
        closed = sorted(place for place in self.open if place[0] + self.wait <= watermark or watermark == LAST)
        rows = [(start, key, self.open.pop((start, key))) for start, key in closed]
        return [] if self.show_late else [{"k": key, "start": start, "values": values} for start, key, values in rows]

    def end(self):
        return []


class Distinct:
    """``drop_duplicates``."""

    def __init__(self, *, horizon_us):
        self.horizon = horizon_us
        self.seen = {}

    def batch(self, records, watermark):
        kept = []
        for record in records:
            moment = max(record["t"], watermark)
            before = self.seen.get(record["k"])
            if before is None or moment - before >= self.horizon:
                self.seen[record["k"]] = moment
                kept.append(record)
        return kept

    def watermark(self, _):
        return []

    def end(self):
        return []


class Counting:
    """``stateful_map`` that forgets a key at every third record."""

    def __init__(self):
        self.state = {}

    def batch(self, records, _):
        results = []
        for record in records:
            count = self.state.get(record["k"], 0) + 1
            results.append((record["k"], count))
            self.state[record["k"]] = count % 3
        return results

    def watermark(self, _):
        return []

    def end(self):
        return []


class Sessions:
    """``process``: a value, a list and a map that expire at their own times, and one that stays."""

    def __init__(self, *, ttl_us):
        self.ttl = ttl_us
        self.state = {}

    def read(self, key, name, now, missing):
        value, written = self.state.get((key, name), (missing, now))
        return value if now < written + self.ttl[name] else missing

    def batch(self, records, watermark):
        results = []
        for record in records:
            key, now = record["k"], max(record["t"], watermark)
            visits = self.read(key, "visits", now, 0) + 1
            pages = [*self.read(key, "pages", now, []), record["v"]]
            sums = dict(self.read(key, "sums", now, {}))
            sums[record["v"] % 2] = sums.get(record["v"] % 2, 0) + record["v"]
            for name, value in (("visits", visits), ("pages", pages), ("sums", sums)):
                self.state[key, name] = (value, now)
            if record["v"] % 5 == 0:
                del self.state[key, "pages"]
            results.append({"k": key, "visits": visits, "pages": pages, "sums": sums})
        return results

    def watermark(self, _):
        return []

    def end(self):
        return []


def output(model, partitions, *, batch_size, delay_us):
    """All that a model emits."""
    rows, watermark = [], FIRST
    for kind, value in stream(partitions, batch_size=batch_size, delay_us=delay_us):
        if kind == "batch":
            rows += model.batch(value, watermark)
        else:
            watermark = value
            rows += model.watermark(watermark)
    return rows + model.end()
