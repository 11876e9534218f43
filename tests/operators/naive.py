"""What a dataflow should output, worked out in the plainest way: no batches of state, no restarts, no checkpoints."""

from __future__ import annotations

from onceflow.testing import ABORT, EOF, PAUSE

MARKS = (ABORT, EOF, PAUSE)
FIRST, LAST = -(2**63), 2**63 - 1


def stream(partitions, *, batch_size, delay_us):
    """("batch", [(record, watermark)]) and ("watermark", time) in the order in which a worker meets them.

    Round by round the partition that is most behind hands out a batch; a mark is a batch without records, which holds
    nobody up. Beside each record stands how far event time has come: the watermark of its own partition before it. A
    ("watermark", time) is that of the partition that is most behind.
    """
    places = [0] * len(partitions)
    newest = [None] * len(partitions)
    marks = [None] * len(partitions)
    ended = [False] * len(partitions)
    before = FIRST

    def read(number):
        items = partitions[number]
        if places[number] == len(items):
            return None
        records = []
        while places[number] < len(items) and len(records) < batch_size:
            item = items[places[number]]
            if item in MARKS:
                places[number] += not records
                break
            records.append(item)
            places[number] += 1
        return records

    while not all(ended):
        live = [number for number in range(len(partitions)) if not ended[number]]
        lowest = min((marks[number] for number in live if marks[number] is not None), default=LAST)
        behind = [number for number in live if marks[number] is None or marks[number] <= lowest]
        found = {number: read(number) for number in behind}
        ahead = [number for number in live if number not in behind]
        while ahead and not any(records is None or records for records in found.values()):
            lowest = min(marks[number] for number in ahead)
            found.update({number: read(number) for number in ahead if marks[number] <= lowest})
            ahead = [number for number in ahead if marks[number] > lowest]
        for number, records in sorted(found.items()):
            if records is None:
                ended[number], marks[number] = True, LAST
            elif records:
                marked = []
                for record in records:
                    own = FIRST if newest[number] is None else newest[number] - delay_us
                    marked.append((record, max(own, before)))
                    newest[number] = record["t"] if newest[number] is None else max(newest[number], record["t"])
                yield "batch", marked
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

    def batch(self, marked):
        records = [record for record, _ in marked]
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

    def batch(self, marked):
        late = []
        for record, watermark in marked:
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

    def batch(self, marked):
        kept = []
        for record, watermark in marked:
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

    def batch(self, marked):
        results = []
        for record, _ in marked:
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

    def batch(self, marked):
        results = []
        for record, watermark in marked:
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
    rows = []
    for kind, value in stream(partitions, batch_size=batch_size, delay_us=delay_us):
        rows += model.batch(value) if kind == "batch" else model.watermark(value)
    return rows + model.end()
