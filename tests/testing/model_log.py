"""A log in memory that can be told to go wrong, and clients that use it at random and write down what they do.

It keeps to the embedded log's promise: a transaction takes its offsets and becomes visible in one step.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from onceflow.testing.histories import Isolation, PartitionOffset, Record, Recorder

TOPICS = {"orders": 2, "ledger": 1}
PLACES = [(topic, partition) for topic, partitions in TOPICS.items() for partition in range(partitions)]


class RefusedError(Exception):
    """The log did not do it."""


class NoAnswerError(Exception):
    """The log did it or not."""


@dataclass
class Staged:
    """A transaction that is not yet decided."""

    records: list[tuple[tuple[str, int], str]] = field(default_factory=list)
    positions: dict[tuple[str, int], int] = field(default_factory=dict)
    #: With offsets_at_produce: where its records will be.
    reserved: list[tuple[tuple[str, int], int]] = field(default_factory=list)


class ModelLog:
    """Partitions as lists of values; None is an offset without a record.

    Args:
        bug: What goes wrong, if anything.
        every: At each how manyth opportunity.
    """

    def __init__(self, bug: str | None = None, every: int = 3) -> None:
        self.partitions: dict[tuple[str, int], list[str | None]] = {place: [] for place in PLACES}
        self.group: dict[tuple[str, int], int] = dict.fromkeys(PLACES, 0)
        self.bug = bug
        self.planted = 0
        self.watchers: list[Reader] = []
        self._every = every
        self._opportunities = 0
        #: Where records are that no transaction sent.
        self._alone: set[tuple[tuple[str, int], int]] = set()
        self._late: list[tuple[tuple[str, int], int, str]] = []

    def goes_wrong(self, bug: str) -> bool:
        """Whether the bug strikes here."""
        if bug != self.bug:
            return False
        self._opportunities += 1
        if self._opportunities % self._every:
            return False
        self.planted += 1
        return True

    def append(self, place: tuple[str, int], value: str) -> int:
        """A record outside transactions; its offset."""
        self.settle()
        records = self.partitions[place]
        if (place, len(records) - 1) in self._alone and self.goes_wrong("reuse_offset"):
            records[-1] = value
            return len(records) - 1
        if self.goes_wrong("invent"):
            records.append(f"like {value}")
        records.append(None if self.goes_wrong("lose_acknowledged") else value)
        offset = len(records) - 1
        self._alone.add((place, offset))
        if self.goes_wrong("duplicate_on_retry"):
            records.append(value)
        return offset

    def stage(self, staged: Staged, place: tuple[str, int], value: str) -> int | None:
        """A record of a transaction; its offset, if it has one already."""
        staged.records.append((place, value))
        if self.bug == "offsets_at_produce":
            self.partitions[place].append(None)
            staged.reserved.append((place, len(self.partitions[place]) - 1))
        return None

    def commit(self, staged: Staged) -> None:
        """All its records at once."""
        self.settle()
        records = staged.records
        if self.bug == "offsets_at_produce":
            for (place, offset), (_, value) in zip(staged.reserved, records, strict=True):
                self.partitions[place][offset] = value
            return
        if records and self.goes_wrong("lose_transaction"):
            records = []
        places = list(dict.fromkeys(place for place, _ in records))
        missing = late = None
        if len(places) > 1 and self.goes_wrong("tear_transaction"):
            missing = places[-1]
        if len(places) > 1 and self.goes_wrong("tear_in_time"):
            late = places[-1]
        first = records[0][0] if records else None
        mine = [number for number, (place, _) in enumerate(records) if place == first]
        if len(mine) > 1 and self.goes_wrong("reorder_sends"):
            records = list(records)
            records[mine[0]], records[mine[-1]] = records[mine[-1]], records[mine[0]]
        for place, value in records:
            if place == late:
                self._late.append((place, len(self.partitions[place]), value))
            else:
                self.partitions[place].append(None if place == missing else value)
        if late is not None:
            for watcher in self.watchers:
                watcher.read_all()
        if not (staged.positions and self.goes_wrong("lose_positions")):
            self.group.update(staged.positions)

    def settle(self) -> None:
        """What a torn commit still owed."""
        for place, _, value in self._late:
            self.partitions[place].append(value)
        self._late.clear()

    def abort(self, staged: Staged) -> None:
        """None of its records."""
        if staged.records and self.goes_wrong("expose_aborted"):
            for place, value in staged.records:
                self.partitions[place].append(value)

    def abandon(self, staged: Staged) -> None:
        """Its client is dead."""

    def end(self, place: tuple[str, int], isolation: Isolation) -> int:
        """How far one can read."""
        return len(self.partitions[place])

    def shows(self, value: str, isolation: Isolation) -> bool:
        """Whether a reader is given what is there."""
        return True

    def read(self, place: tuple[str, int], position: int, limit: int, isolation: Isolation) -> list[Record]:
        """Records from a position on."""
        found = []
        for offset in range(position, self.end(place, isolation)):
            value = self.partitions[place][offset]
            if value is not None and self.shows(value, isolation):
                found.append(Record(*place, offset, value))
                if len(found) == limit:
                    break
        return found


class EagerLog(ModelLog):
    """Writes records down when they are sent, as Kafka does; open transactions keep readers from what is behind."""

    def __init__(self) -> None:
        super().__init__()
        self._open: dict[str, Staged] = {}
        self._aborted: set[str] = set()

    def stage(self, staged: Staged, place: tuple[str, int], value: str) -> int:
        staged.records.append((place, value))
        self._open[value] = staged
        self.partitions[place].append(value)
        return len(self.partitions[place]) - 1

    def commit(self, staged: Staged) -> None:
        self._decide(staged)
        self.group.update(staged.positions)

    def abort(self, staged: Staged) -> None:
        self._decide(staged)
        self._aborted.update(value for _, value in staged.records)

    def abandon(self, staged: Staged) -> None:
        if any(value in self._open for _, value in staged.records):
            self.abort(staged)

    def _decide(self, staged: Staged) -> None:
        for place in dict.fromkeys(place for place, _ in staged.records):
            # The mark of the end takes an offset.
            self.partitions[place].append(None)
        for _, value in staged.records:
            del self._open[value]

    def end(self, place: tuple[str, int], isolation: Isolation) -> int:
        values = self.partitions[place]
        if isolation is Isolation.READ_UNCOMMITTED:
            return len(values)
        return next((offset for offset, value in enumerate(values) if value in self._open), len(values))

    def shows(self, value: str, isolation: Isolation) -> bool:
        return isolation is Isolation.READ_UNCOMMITTED or value not in self._aborted


class Reader:
    """Reads partitions. With ``faulty``, bugs of reading strike it; others then show what it was not given."""

    def __init__(
        self,
        log: ModelLog,
        recorder: Recorder,
        *,
        faulty: bool = False,
        isolation: Isolation = Isolation.READ_COMMITTED,
    ) -> None:
        self.log = log
        self.isolation = isolation
        self.recorder = recorder
        self.positions: dict[tuple[str, int], int] = {}
        self.faulty = faulty
        self.late: list[Record] = []

    def assign(self, positions: dict[tuple[str, int], int], group: str | None = None) -> None:
        """Reads on from there."""
        self.late.clear()
        self.positions = positions
        self.recorder.assigned([PartitionOffset(*place, offset) for place, offset in positions.items()], group=group)

    def read_all(self) -> None:
        """To the end of each partition."""
        for place in self.positions:
            while self.poll(place, 5):
                pass

    def seek(self, place: tuple[str, int], offset: int) -> None:
        """Reads on from there."""
        self.positions[place] = offset
        self.recorder.sought(*place, offset)

    def poll(self, place: tuple[str, int], limit: int) -> list[Record]:
        """Up to so many records, in order, after those before."""
        log, start_ns = self.log, self.recorder.now()
        end = log.end(place, self.isolation)
        records = log.read(place, self.positions[place], limit, self.isolation)
        behind = self.positions[place] = records[-1].offset + 1 if records else end
        if self.faulty:
            self._spoil(place, records)
        reached = [PartitionOffset(*place, behind)] if behind == end else []
        if self.late or self.positions[place] < behind:
            reached = []
        self.recorder.polled(records, start_ns=start_ns, reached=reached, isolation=self.isolation)
        return records

    def _spoil(self, place: tuple[str, int], records: list[Record]) -> None:
        log = self.log
        if self.late and place == (self.late[0].topic, self.late[0].partition):
            records.insert(0, self.late.pop())
        elif not self.late and len(records) > 1 and log.goes_wrong("swap_between_polls"):
            self.late.append(records.pop(0))
        if len(records) > 2 and log.goes_wrong("skip_in_poll"):
            del records[1]
        if len(records) > 1 and log.goes_wrong("skip_between_polls"):
            del records[0]
        if len(records) > 1 and log.goes_wrong("swap_in_poll"):
            records[-2:] = records[:-3:-1]
        if len(records) > 1 and log.goes_wrong("repeat"):
            self.positions[place] = records[-1].offset


class Client:
    """One that sends, alone or in transactions, and as a copier reads within them."""

    def __init__(self, log: ModelLog, directory: Path, name: str) -> None:
        self.log = log
        self.directory = directory
        self.name = name
        self.lives = 0
        self.values = 0
        self.restart()

    def restart(self) -> None:
        """Killed, and another one in its place."""
        if self.lives:
            self.recorder.close()
        self.lives += 1
        self.recorder = Recorder(
            self.directory, f"{self.name}-{self.lives}", definite=lambda error: isinstance(error, RefusedError)
        )
        self.staged: Staged | None = None
        self.reader = Reader(self.log, self.recorder)
        self.reader.assign(dict(self.log.group), group="copiers")

    def send(self, place: tuple[str, int], fault: int) -> None:
        """A record; faults 1 and 2 leave it open whether it was sent, 3 refuses it."""
        self.values += 1
        value = f"{self.name}.{self.lives}.{self.values}"
        if self.staged is not None:
            call = self.recorder.send(place[0], value, place[1])
            offset = self.log.stage(self.staged, place, value)
            if offset is not None:
                self.recorder.sent(call, place[1], offset)
            return
        call = self.recorder.send(place[0], value, place[1] if fault % 2 else None)
        if fault == 3:
            self.recorder.not_sent(call, RefusedError("refused"))
            return
        offset = self.log.append(place, value) if fault != 2 else None
        if fault in (1, 2):
            self.recorder.not_sent(call, NoAnswerError("no answer"))
        else:
            self.recorder.sent(call, place[1], offset)

    def begin(self) -> None:
        """A transaction, unless one is open."""
        if self.staged is None:
            self.recorder.begin()
            self.staged = Staged()

    def copy(self, place: tuple[str, int]) -> None:
        """Reads in a transaction and says how far it came."""
        self.begin()
        assert self.staged is not None
        records = self.reader.poll(place, 3)
        if records:
            self.send(PLACES[-1], 0)
            position = self.reader.positions[place]
            with self.recorder.send_offsets("copiers", [PartitionOffset(*place, position)]):
                self.staged.positions[place] = position

    def end(self, fault: int) -> None:
        """Commits; faults 1 and 2 leave it open whether that was done, 3 refuses it, 4 aborts instead, 5 is a kill."""
        if self.staged is None:
            return
        staged, self.staged = self.staged, None
        if staged.records and self.log.goes_wrong("expose_before_commit"):
            self.log.commit(Staged(staged.records))
            for watcher in self.log.watchers:
                watcher.read_all()
            staged = Staged(positions=staged.positions)
        if fault == 5:
            self.log.abandon(staged)
            self.restart()
            return
        try:
            if fault == 4:
                with self.recorder.abort():
                    self.log.abort(staged)
                self.reader.assign(dict(self.log.group), group="copiers")
                return
            with self.recorder.commit():
                if fault == 3:
                    self.log.abort(staged)
                    raise RefusedError("fenced")
                if fault != 2:
                    self.log.commit(staged)
                if fault in (1, 2):
                    raise NoAnswerError("no answer")
        except (RefusedError, NoAnswerError):
            self.log.abandon(staged)
            self.restart()

    def die(self) -> None:
        """Without a successor."""
        if self.staged is not None:
            self.log.abandon(self.staged)
        self.recorder.close()


def run(directory: Path, steps: Iterable[int], log: ModelLog) -> None:
    """Lets clients do what the numbers say, then lets two new readers read everything."""
    clients = [Client(log, directory, f"client-{number}") for number in range(3)]
    readers = []
    for number in range(2):
        reader = Reader(log, Recorder(directory, f"reader-{number}"), faulty=True)
        reader.assign(dict.fromkeys(PLACES, 0))
        readers.append(reader)
    log.watchers = readers
    for step in steps:
        rest, action = divmod(step, 10)
        rest, place = rest // len(PLACES), PLACES[rest % len(PLACES)]
        client, reader = clients[rest % 3], readers[rest % 2]
        fault = rest // 3 % 12
        match action:
            case 0 | 2 | 3:
                client.send(place, fault)
            case 1:
                client.begin()
            case 4:
                client.copy(place)
            case 5 | 6:
                client.end(fault)
            case 7 | 8:
                reader.poll(place, 4)
            case _:
                _wander(reader, place, fault)
    log.settle()
    for client in clients:
        client.die()
    for reader in readers:
        reader.read_all()
        reader.recorder.close()
    for isolation in Isolation:
        with Recorder(directory, f"last-{isolation}") as recorder:
            last = Reader(log, recorder, isolation=isolation)
            last.assign(dict.fromkeys(PLACES, 0))
            last.read_all()


def _wander(reader: Reader, place: tuple[str, int], fault: int) -> None:
    if reader.late:
        reader.read_all()
    elif fault == 0:
        reader.assign(dict.fromkeys(PLACES, 0))
    elif fault < 4:
        reader.seek(place, reader.positions[place] * fault // 4)
    else:
        reader.poll(place, fault)
