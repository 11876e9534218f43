"""A job that nothing happens to, and how much memory it has: from Kafka over window counts into PostgreSQL and Kafka.

A key never comes again after its window, so whatever is kept of a key, a window, a checkpoint or a transaction shows
as growth that does not end.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

sys.path.extend(str(Path(__file__).parents[1] / beside) for beside in ("", "kafka"))

import psycopg
import topics
from lives import Life, no_survivors

import onceflow as of
from onceflow.connectors.kafka import KafkaSink, KafkaSource
from onceflow.connectors.postgres import PostgresSink
from onceflow.exceptions import FinishedJobWarning, SinkWaitingWarning, SourceWaitingWarning
from onceflow.windows import Tumbling

__all__ = ["Memory", "Steady", "growth", "run_steady"]

_PARTITIONS = 4
#: Of event time. That of a record follows from its number, so what must be counted is known.
_WINDOW_S = 2
#: Of a window.
_KEYS = 50
_TABLE = "create table steady (key text, window_start timestamptz, window_end timestamptz, n bigint not null)"
_LONG_S = 300.0
_DAY_S = 86_400
#: How many samples pairs are made of.
_MOST = 400


@dataclass(frozen=True)
class Memory:
    """What became of a size.

    Attributes:
        start_mib: The median of the first tenth after the warm-up.
        end_mib: The median of the last tenth.
        most_mib: After the warm-up.
        mib_per_hour: The median of the slopes between all pairs of samples after the warm-up (Theil and Sen), which no
            single peak changes.
    """

    start_mib: float
    end_mib: float
    most_mib: float
    mib_per_hour: float


@dataclass(slots=True)
class Steady:
    """What there was.

    Attributes:
        records: Of the input.
        windows: Of the output.
        wrong: What of them is wrong, if anything is.
        processor: The share of one core that the job has used.
        resident_mib: By the second: all that is in memory.
        own_mib: By the second: without pages of files, which are the code and the state's file.
    """

    records: int = 0
    windows: int = 0
    wrong: str = ""
    processor: float = 0.0
    resident_mib: list[tuple[float, float]] = field(default_factory=list)
    own_mib: list[tuple[float, float]] = field(default_factory=list)

    def sample(self, pid: int, second: float) -> None:
        """Looks at a process."""
        lines = (line.partition(":") for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        sizes = {name: int(size.split()[0]) / 1024 for name, _, size in lines if name in ("VmRSS", "RssAnon")}
        self.resident_mib.append((second, sizes["VmRSS"]))
        self.own_mib.append((second, sizes["RssAnon"]))


def growth(samples: Sequence[tuple[float, float]], warm_up: float = 1 / 4) -> Memory:
    """What became of a size.

    Args:
        samples: Second and MiB.
        warm_up: The share of the time that is not judged.
    """
    begin = samples[0][0] + warm_up * (samples[-1][0] - samples[0][0])
    judged = [sample for sample in samples if sample[0] >= begin]
    thinned = judged[:: -(-len(judged) // _MOST)]
    slopes = [
        (later[1] - earlier[1]) / (later[0] - earlier[0]) * 3600
        for number, earlier in enumerate(thinned)
        for later in thinned[number + 1 :]
    ]
    sizes = [mib for _, mib in judged]
    tenth = max(len(sizes) // 10, 1)
    first, last = statistics.median(sizes[:tenth]), statistics.median(sizes[-tenth:])
    return Memory(first, last, max(sizes), statistics.median(slopes))


class _Places:
    """Where input and output are, with names of their own."""

    def __init__(self, root: Path, bootstrap: str, dsn: str, rate: float) -> None:
        self.root, self.bootstrap, self.dsn, self.rate = root, bootstrap, dsn, rate
        self.source, self.target = topics.name("steady-in"), topics.name("steady-out")

    def create(self) -> None:
        for name in (self.source, self.target):
            topics.create(self.bootstrap, name, _PARTITIONS)
        with psycopg.connect(self.dsn) as session:
            session.execute(_TABLE)

    def feed(self) -> None:
        """Writes so many records a second until there is a file ``stop``, and leaves their count in ``fed``."""
        producer = topics.producer(self.bootstrap, None, **{"enable.idempotence": True, "linger.ms": 20})
        # The bound of a window, and long ago enough not to be ahead of the broker's clock.
        first_ms = (int(time.time()) // _DAY_S - 1) * _DAY_S * 1000
        began_s, number = time.monotonic(), 0
        while not (self.root / "stop").exists():
            while number < (time.monotonic() - began_s) * self.rate:
                record = json.dumps({"key": self._key(number)})
                time_ms = first_ms + int(number / self.rate * 1000)
                producer.produce(self.source, record, partition=number % _PARTITIONS, timestamp=time_ms)
                number += 1
            producer.poll(0.05)
        assert producer.flush(60) == 0
        (self.root / "fed").write_text(str(number))

    def run(self, *, follow: bool) -> None:
        """One life of the job."""
        flow = of.Dataflow(self.source)
        source = KafkaSource(self.bootstrap, self.source, decode="json", event_time="timestamp", stop_at_end=not follow)
        windows = flow.source("in", source).key_by("key").window("counts", Tumbling(seconds=_WINDOW_S))
        counts = windows.aggregate(n=of.count())
        counts.sink("table", PostgresSink(self.dsn, "steady"))
        counts.sink("topic", KafkaSink(self.bootstrap, self.target, key="key"))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            # On a busy machine servers take seconds for an answer.
            for category in (FinishedJobWarning, SinkWaitingWarning, SourceWaitingWarning):
                warnings.simplefilter("ignore", category)
            of.run(flow, self.root / "state", checkpoint_interval_s=1.0)

    def judge(self) -> None:
        """Leaves in ``wrong`` what topic and table lack or have too much, read by their vendors' clients."""
        wanted = Counter(self._key(number) for number in range(int((self.root / "fed").read_text())))
        with psycopg.connect(self.dsn) as session:
            rows = session.execute("select key, n from steady").fetchall()
        records = [json.loads(message.value()) for message in topics.read(self.bootstrap, self.target)]
        for name, found in (("table", rows), ("topic", [(record["key"], record["n"]) for record in records])):
            if len(found) != len(wanted) or dict(found) != wanted:
                (self.root / "wrong").write_text(
                    f"the {name} has {len(found)} windows of {len(wanted)}, or other counts"
                )
        (self.root / "windows").write_text(str(len(wanted)))

    def _key(self, number: int) -> str:
        return f"{int(number / self.rate) // _WINDOW_S}-{number % _KEYS}"


@no_survivors()
def run_steady(
    root: Path,
    bootstrap: str,
    dsn: str,
    *,
    seconds: float,
    rate: float,
    told: Callable[[Steady], None] = lambda so_far: None,
) -> Steady:
    """A job for so long, looked at each second; then it takes what is left, and topic and table are looked at.

    Args:
        root: An empty directory.
        bootstrap: Of a broker.
        dsn: Of a database.
        seconds: How long the job is looked at.
        rate: Records a second.
        told: Called after each look.

    Raises:
        AssertionError: The job or a client failed. What is wrong in the output is in what is returned.
    """
    places, found = _Places(root, bootstrap, dsn, rate), Steady()
    _through(places.create)
    feeder, job = Life(places.feed), Life(lambda: places.run(follow=True))
    began_s = time.monotonic()
    while (second := time.monotonic() - began_s) < seconds:
        for life in (feeder, job):
            assert life.step(0) is None, life.error
        found.sample(job.pid, second)
        told(found)
        time.sleep(1)
    found.processor = _processor_s(job.pid) / second
    (root / "stop").touch()
    assert feeder.wait(_LONG_S) == "done", feeder.error
    os.kill(job.pid, signal.SIGTERM)
    assert job.wait(_LONG_S) == "done", job.error
    _through(lambda: places.run(follow=False))
    _through(places.judge)
    found.records, found.windows = (int((root / name).read_text()) for name in ("fed", "windows"))
    if (root / "wrong").exists():
        found.wrong = (root / "wrong").read_text()
    return found


def _through(function: Callable[[], object]) -> None:
    """In a process of its own: threads of clients do not come along into lives that are forked later."""
    life = Life(function)
    assert life.wait(_LONG_S) == "done", life.error


def _processor_s(pid: int) -> float:
    times = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK")
