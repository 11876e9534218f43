"""How fast is a keyed count from a topic of Kafka into another, exactly once, and how soon does it go on after a kill?

Beside Quix Streams, on one broker on this machine, in rounds that take turns. What comes out is compared with what went
in, each time.
"""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from counting_job import Emit, counting
from word_topics import Answers, WordWriter, check_counts, create_topics, fill

import onceflow as of
from harness.figures import Goal, Table
from harness.peers import Peer, PeerUnavailableError
from harness.rounds import interleave, median

KEYS = 100_000
INTERVAL_S = 1.0
#: By emit. A source that hands out columns is asked for more at once.
BATCHES: dict[Emit, int] = {"changes": 65_536, "each": 8192}
NAMES: dict[Emit, str] = {"changes": "onceflow, changes of each batch", "each": "onceflow, record by record"}
#: So many times faster.
FASTER = 10.0
#: After a kill: how often is committed, words a second, how many different ones, and how long to wait for an answer.
SHORT_S, PACED, PACED_KEYS, PATIENCE_S = 0.1, 1_000, 1_000, 200.0
SOON_S = 2.0

PROGRAM = "quix_counts.py"
#: Of librdkafka, beside what Quix Streams sets itself.
Settings = dict[str, dict[str, Any]]
DEFAULTS: Settings = {"consumer": {}, "producer": {}}
#: 6 s is the shortest session that a broker allows as it comes.
SHORT: Settings = {
    "consumer": {"session.timeout.ms": 6_000, "heartbeat.interval.ms": 500},
    "producer": {"transaction.timeout.ms": 5_000},
}
#: A process that has the name of the one before takes its partitions over, and ends its transaction, without waiting.
NAMED: Settings = {
    "consumer": {**SHORT["consumer"], "group.instance.id": "counting"},
    "producer": {**SHORT["producer"], "transactional.id": "counting"},
}

RATES = Table(
    "keyed_count",
    "Keyed count from a topic of Kafka into another, exactly once",
    {"what": "text", "rate": "rate", "messages out, of in": "share", "of Quix Streams": "times"},
    "Medians of rounds that take turns, against one broker; 100 k words, uniformly drawn, the keys of messages in two "
    "partitions; both commit each second. onceflow: from the start of the job to its last commit. Quix Streams: a "
    "stateful function with its default store, from the first message to the last one, without its start and its last "
    "commit. Each time what a read_committed consumer finds is compared with what was written.",
)
RECOVERY = Table(
    "recovery_on_kafka",
    "From kill -9 to the first committed count of a word that was written after it",
    {"what": "text", "settings": "text", "median": "seconds", "longest": "seconds"},
    "As a read_committed consumer sees it. 1,000 words a second come in; both commit every 100 ms, and start again at "
    "once. The start of the program is part of it. The broker looks every second for transactions that have timed "
    "out, instead of every ten. Afterwards all words must have been counted once.",
)

_numbers = itertools.count()


@pytest.fixture(scope="module")
def bootstrap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a broker that has had a transaction."""
    from kafka_log import kafka_broker  # noqa: PLC0415 - of the services' benchmarks alone

    with kafka_broker(tmp_path_factory.mktemp("kafka")) as broker:
        topic, written = words(broker.bootstrap, 1_000)
        job_rate(broker.bootstrap, topic, written, tmp_path_factory.mktemp("warm"), "each")
        yield broker.bootstrap


@pytest.fixture(scope="module")
def peer() -> Peer | None:
    """Quix Streams, if it can be installed."""
    try:
        return Peer("quix", ["quixstreams==3.28.*"])
    except PeerUnavailableError as error:
        print(error)
        return None


class Counted(NamedTuple):
    """Messages in a second, and how many came out for each of them."""

    rate: float
    out: float


def words(bootstrap: str, messages: int) -> tuple[str, Counter[str]]:
    """A topic of words, and how often each is in it."""
    topic = f"words-{next(_numbers)}"
    create_topics(bootstrap, topic)
    return topic, fill(bootstrap, topic, messages, KEYS)


def _counts(bootstrap: str) -> str:
    topic = f"counts-{next(_numbers)}"
    create_topics(bootstrap, topic)
    return topic


def _empty(directory: Path) -> Path:
    shutil.rmtree(directory, ignore_errors=True)
    return directory


def job_rate(bootstrap: str, topic: str, written: Counter[str], directory: Path, emit: Emit) -> Counted:
    """Of a job that reads all of a topic."""
    counts = _counts(bootstrap)
    flow = counting(bootstrap, topic, counts, emit=emit, stop_at_end=True)
    state, batch = _empty(directory / "job"), BATCHES[emit]
    start = time.perf_counter()
    of.run(flow, state, checkpoint_interval_s=INTERVAL_S, guarantee="exactly_once", batch_size=batch)
    took = time.perf_counter() - start
    out = check_counts(bootstrap, counts, written, each=emit == "each")
    return Counted(written.total() / took, out / written.total())


def quix_rate(peer: Peer, bootstrap: str, topic: str, written: Counter[str], directory: Path) -> Counted:
    """Of Quix Streams, for a topic."""
    counts, messages = _counts(bootstrap), written.total()
    arguments = [bootstrap, topic, counts, str(_empty(directory / "quix")), str(INTERVAL_S), str(messages)]
    found = peer.run(PROGRAM, *arguments, json.dumps(DEFAULTS), timeout_s=60 + messages / 1_000)
    out = check_counts(bootstrap, counts, written, each=True)
    return Counted(float(found["rate"]), out / messages)


def recovery(bootstrap: str, start: Callable[[str, str], subprocess.Popen[bytes]]) -> float:
    """Seconds from a kill to the first new committed count.

    Args:
        bootstrap: Of the broker.
        start: Starts a program that counts, by the topics of words and of counts.
    """
    topic, counts = f"words-{next(_numbers)}", _counts(bootstrap)
    create_topics(bootstrap, topic)
    answers = Answers(bootstrap, counts)
    with WordWriter(bootstrap, topic, rate=PACED, keys=PACED_KEYS) as writer:
        program = start(topic, counts)
        try:
            writer.write("before")
            answers.wait({"before": 1}, PATIENCE_S)
            # In the midst of work.
            time.sleep(5.5 * SHORT_S)
            begun = time.perf_counter()
            program.kill()
            program.wait()
            writer.write("after")
            program = start(topic, counts)
            answers.wait({"after": 1}, PATIENCE_S)
            took = time.perf_counter() - begun
            writer.stop()
            answers.wait(writer.written, PATIENCE_S)
            # Of a program that has nothing to do, and no transaction open.
            check_counts(bootstrap, counts, writer.written, each=True)
        finally:
            program.kill()
            program.wait()
            answers.close()
    return took


def start_job(bootstrap: str, state: Path, topic: str, counts: str) -> subprocess.Popen[bytes]:
    """The job that follows a topic."""
    program = Path(__file__).with_name("counting_job.py")
    command = [sys.executable, program, bootstrap, topic, counts, state / counts, str(SHORT_S)]
    return subprocess.Popen([str(each) for each in command])


def start_quix(
    peer: Peer, settings: Settings, bootstrap: str, state: Path, topic: str, counts: str
) -> subprocess.Popen[bytes]:
    """Quix Streams follows a topic."""
    arguments = [bootstrap, topic, counts, str(state / counts), str(SHORT_S), "0", json.dumps(settings)]
    return peer.start(PROGRAM, *arguments)


def test_rate(benchmark, record, scale, directory, bootstrap, peer):
    full = scale.name == "full"
    ours = words(bootstrap, 2_000_000 if full else 5_000)
    contenders = {NAMES[emit]: partial(job_rate, bootstrap, *ours, directory, emit) for emit in BATCHES}
    if peer is not None:
        name = f"Quix Streams {peer.version('quixstreams')}"
        theirs = words(bootstrap, 200_000 if full else 2_000)
        contenders[name] = partial(quix_rate, peer, bootstrap, *theirs, directory)
    found = interleave(benchmark, contenders, 3 if full else 1)
    for what, counted in found.items():
        values = {"what": what, "rate": median([one.rate for one in counted])}
        values["messages out, of in"] = median([one.out for one in counted])
        goals = []
        if peer is not None:
            values["of Quix Streams"] = median(
                [one.rate / other.rate for one, other in zip(counted, found[name], strict=True)]
            )
            goals = [Goal("of Quix Streams", FASTER)] if what == NAMES["changes"] else []
        record(RATES, values, *goals)
    if peer is None:
        record(RATES, {"what": "Quix Streams (cannot be installed here)"})


def test_recovery(benchmark, record, scale, directory, bootstrap, peer):
    full = scale.name == "full"
    contenders = {("onceflow", "defaults"): partial(start_job, bootstrap, directory)}
    if peer is not None:
        name = f"Quix Streams {peer.version('quixstreams')}"
        for settings in [DEFAULTS, SHORT, NAMED] if full else [NAMED]:
            shown = ", ".join(f"{key}={value}" for part in settings.values() for key, value in part.items())
            contenders[name, shown or "defaults"] = partial(start_quix, peer, settings, bootstrap, directory)
    measures = {who: partial(recovery, bootstrap, start) for who, start in contenders.items()}
    for (what, settings), took in interleave(benchmark, measures, 3 if full else 1).items():
        goals = [Goal("longest", SOON_S, at_most=True)] if what == "onceflow" else []
        record(RECOVERY, {"what": what, "settings": settings, "median": median(took), "longest": max(took)}, *goals)
    if peer is None:
        record(RECOVERY, {"what": "Quix Streams (cannot be installed here)"})
