"""Bank transfers: the total of all accounts is the same in every view, whoever is killed.

Accounts lie in the partitions of two topics. A transfer is two records, one takes and one gives, mostly in different
partitions and topics. Four processes write transactions of several transfers, abort some of them, and are killed at
random and started again. A view is where all partitions end at one moment: since a transaction becomes visible in all
its partitions at once, and ends only grow, the ends are of one moment if they are the same before and after a look at
all of them. A viewer adds up what comes between two views; the sum must not change.
"""

from __future__ import annotations

import itertools
import random
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import msgspec
from killing import Life, no_survivors
from recording_log import now_ms

from onceflow._native import Log, LogProducer

__all__ = ["BankResult", "run_bank"]

WRITERS = 4
TOPICS = ("checking", "savings")
PARTITIONS = 3
PLACES = [(topic, partition) for topic in TOPICS for partition in range(PARTITIONS)]
ACCOUNTS = 40
DEPOSIT = 1000


class Entry(msgspec.Struct, array_like=True):
    """One side of a transfer."""

    transfer: str
    account: int
    amount: int
    #: Its transaction will be aborted, so nobody may ever see it.
    doomed: bool


@dataclass(frozen=True, slots=True)
class BankResult:
    """How many there were."""

    views: int
    transfers: int
    kills: int


@no_survivors()
def run_bank(root: Path, *, seconds: float, longest_s: float, seed: int) -> BankResult:
    """Runs the bank for a while; a view with another total fails.

    Args:
        root: An empty directory.
        seconds: For how long.
        longest_s: A writer lives so long at most.
        seed: Of who is killed when.
    """
    chance = random.Random(seed)
    assert Life(lambda: open_accounts(root)).wait() == 0
    stop = root / "stop"
    viewer = Life(lambda: watch(root, stop))
    lives = itertools.count()

    def start(number: int) -> Life:
        life = next(lives)
        return Life(lambda: transfer(root, number, life, seed, stop))

    writers = {number: start(number) for number in range(WRITERS)}
    kills = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert viewer.poll() is None, "a view was wrong, see above"
        time.sleep(chance.uniform(0, longest_s / WRITERS))
        number = chance.randrange(WRITERS)
        kills += writers[number].kill()
        writers[number] = start(number)
    stop.touch()
    for life in (*writers.values(), viewer):
        assert life.wait() == 0
    views = int((root / "views").read_text())
    return BankResult(views, verify(root), kills)


def open_accounts(root: Path) -> None:
    """Every account gets its deposit, in one transaction."""
    with Log.open(root / "log") as log:
        for topic in TOPICS:
            log.create_topic(topic, partitions=PARTITIONS)
        producer = LogProducer(log, now_ms=now_ms(), transactional_id="opening")
        producer.init_transactions(now_ms=now_ms())
        producer.begin_transaction(now_ms=now_ms())
        for account in range(ACCOUNTS):
            write(producer, Entry("opening", account, DEPOSIT, doomed=False))
        producer.commit_transaction(now_ms=now_ms())


def place_of(account: int) -> tuple[str, int]:
    return PLACES[account % len(PLACES)]


def write(producer: LogProducer, entry: Entry) -> None:
    topic, partition = place_of(entry.account)
    producer.produce(topic, [msgspec.msgpack.encode(entry)], partition=partition, now_ms=now_ms())


def transfer(root: Path, number: int, life: int, seed: int, stop: Path) -> None:
    """One life of a writer."""
    chance = random.Random(f"{seed} {number} {life}")
    with Log.open(root / "log") as log:
        # Every other writer has most of a transaction staged on the disk.
        buffered = 100 if number % 2 else 1 << 24
        producer = LogProducer(log, now_ms=now_ms(), transactional_id=f"writer-{number}", max_buffered_bytes=buffered)
        producer.init_transactions(now_ms=now_ms())
        for attempt in itertools.count():
            if stop.exists():
                return
            producer.begin_transaction(now_ms=now_ms())
            doomed = chance.random() < 0.25
            for each in range(chance.randint(1, 6)):
                name = f"{number}.{life}.{attempt}.{each}"
                one, other = chance.sample(range(ACCOUNTS), 2)
                amount = chance.randint(1, 100)
                write(producer, Entry(name, one, -amount, doomed))
                write(producer, Entry(name, other, amount, doomed))
            if doomed:
                producer.abort_transaction(now_ms=now_ms())
            else:
                producer.commit_transaction(now_ms=now_ms())


def view(log: Log) -> dict[tuple[str, int], int] | None:
    """Where all partitions end at one moment; None if something was committed while looking."""
    once, again = ({place: log.partition(*place).end for place in PLACES} for _ in range(2))
    return once if once == again else None


def watch(root: Path, stop: Path) -> None:
    """The viewer: the total of every view."""
    views = 0
    total = 0
    with Log.open(root / "log") as log:
        positions = dict.fromkeys(PLACES, 0)
        while not stop.exists():
            log.wait([(*place, offset) for place, offset in positions.items()], 0.05)
            ends = view(log)
            if ends is None:
                continue
            for place, end in ends.items():
                total += sum(entry.amount for entry in entries(log, place, positions[place], end))
            positions = ends
            views += 1
            assert total == ACCOUNTS * DEPOSIT, f"view {views} at {ends} has a total of {total}"
            log.maintain(now_ms=now_ms())
    (root / "views").write_text(str(views))


def entries(log: Log, place: tuple[str, int], offset: int, end: int) -> list[Entry]:
    """What a partition has from an offset up to an end."""
    found: list[Entry] = []
    while offset < end:
        records = log.fetch(*place, offset, max_records=end - offset)
        found += [msgspec.msgpack.decode(value, type=Entry) for value in records.values if value is not None]
        offset = records.next_offset
    assert not any(entry.doomed for entry in found), "records of an aborted transaction show"
    return found


def verify(root: Path) -> int:
    """Every transfer is there with both its sides, once; returns how many."""
    with Log.open(root / "log", create=False) as log:
        ends = view(log)
        assert ends is not None
        sides: Counter[str] = Counter()
        amounts: Counter[str] = Counter()
        for place, end in ends.items():
            for entry in entries(log, place, 0, end):
                if entry.transfer != "opening":
                    sides[entry.transfer] += 1
                    amounts[entry.transfer] += entry.amount
        torn = [name for name, count in sides.items() if count != 2 or amounts[name]]
        assert not torn, f"{len(torn)} transfers are torn or doubled: {torn[:5]}"
        while log.maintain(now_ms=now_ms()).more:
            pass
        assert not any(producer.staged_bytes for producer in log.producers())
        return len(sides)
