"""``onceflow log``: topics, records, groups and transactions of an embedded log, beside the programs that use it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onceflow.cli.console import note, print_json, print_table
from onceflow.cli.directory import reader
from onceflow.cli.units import bytes_text, count_text, duration_s, duration_text, time_text
from onceflow.exceptions import ConfigurationError, StoreMissingError

if TYPE_CHECKING:
    from onceflow.log import Consumer, Log, LogGroup, LogProducerInfo, LogTopic, Message, TopicPartition

__all__ = ["app"]

#: Groups of this name are the markers of jobs' sinks: what they commit is the number of a checkpoint.
_OF_SINK = "onceflow/"

app = typer.Typer(no_args_is_help=True, help="Use an embedded log; other programs may be using it.")


class _Format(StrEnum):
    VALUES = "values"
    JSONL = "jsonl"


_Directory = Annotated[Path, typer.Argument(metavar="DIR", help="The directory of a log.")]
_Topic = Annotated[str, typer.Argument(metavar="TOPIC", help="Name of a topic.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@contextmanager
def _opened(directory: Path, *, write: bool = False, create: bool = False) -> Iterator[Log]:
    from onceflow.log import Log  # noqa: PLC0415 - loads the extension

    try:
        log = Log.open(directory, create=create, read_only=not write, upkeep_interval_s=None)
    except StoreMissingError as error:
        error.add_note("onceflow log create DIR TOPIC makes a log")
        raise
    with log:
        yield log


@app.command()
def topics(directory: _Directory, as_json: _Json = False) -> None:
    """List the topics, and how much they hold."""
    with _opened(directory) as log:
        rows = [_topic_row(log, topic) for topic in log.topics()]
    if as_json:
        print_json(rows)
    elif not rows:
        note(f"{directory} has no topics; make one with: onceflow log create {directory} TOPIC")
    else:
        cells = [
            [
                str(row["topic"]),
                str(row["partitions"]),
                count_text(row["records"]),
                bytes_text(row["bytes"]),
                "never" if row["newest_ms"] is None else time_text(row["newest_ms"]),
                _kept(row),
            ]
            for row in rows
        ]
        names = ["topic", "partitions", "records", "size", "newest record", "kept"]
        print_table(names, cells, right=["partitions", "records", "size"])


def _topic_row(log: Log, topic: LogTopic) -> dict[str, Any]:
    partitions = [log.partition(topic.name, number) for number in range(topic.partitions)]
    newest = [each.max_timestamp_ms for each in partitions if each.max_timestamp_ms is not None]
    return {
        "topic": topic.name,
        "partitions": topic.partitions,
        "records": sum(each.records for each in partitions),
        "bytes": sum(each.bytes for each in partitions),
        "newest_ms": max(newest, default=None),
        "cleanup_policy": topic.cleanup_policy,
        "retention_ms": topic.retention_ms,
        "retention_bytes": topic.retention_bytes,
    }


def _kept(row: dict[str, Any]) -> str:
    kept = ["newest of each key"] if row["cleanup_policy"] == "compact" else []
    if row["retention_ms"] is not None:
        kept.append(duration_text(row["retention_ms"] / 1000))
    if row["retention_bytes"] is not None:
        kept.append(f"{bytes_text(row['retention_bytes'])} a partition")
    return ", ".join(kept) or "for ever"


@app.command()
def create(
    directory: _Directory,
    topic: _Topic,
    partitions: Annotated[int, typer.Option(metavar="N", help="More can be added later, not fewer.")] = 1,
    retention: Annotated[
        str | None, typer.Option(metavar="TIME", help="Remove records that are older, such as 48h.")
    ] = None,
    retention_bytes: Annotated[
        int | None, typer.Option(metavar="BYTES", help="Remove the oldest records of a partition that is larger.")
    ] = None,
    compact: Annotated[bool, typer.Option("--compact", help="Keep only the newest record of each key.")] = False,
) -> None:
    """Make a topic, and the log if it does not exist."""
    with _opened(directory, write=True, create=True) as log:
        log.create_topic(
            topic,
            partitions=partitions,
            retention_ms=None if retention is None else round(duration_s(retention) * 1000),
            retention_bytes=retention_bytes,
            cleanup_policy="compact" if compact else "delete",
        )
    note(f"{directory}: topic {topic} with {count_text(partitions)} partition{'s' if partitions != 1 else ''}")


@app.command()
def produce(
    directory: _Directory,
    topic: _Topic,
    format: Annotated[
        _Format, typer.Option(help="Of standard input: a value a line, or JSON as tail --format jsonl writes it.")
    ] = _Format.VALUES,
    key_separator: Annotated[
        str | None, typer.Option(metavar="TEXT", help="What stands between key and value of a line.")
    ] = None,
    transactional_id: Annotated[
        str | None,
        typer.Option(metavar="ID", help="All lines in one transaction of this producer: all of them, or none."),
    ] = None,
) -> None:
    """Write the lines of standard input as records; they are durable when the command ends.

    A JSON line is an object with any of value, key (text or null; other JSON is written as JSON), value_base64,
    key_base64, headers (an object; or pairs of a name and text, null or {"base64": ...}), timestamp_ms and partition.
    """
    from onceflow.cli.log_lines import parsed_lines  # noqa: PLC0415 - loads msgspec
    from onceflow.log import Producer  # noqa: PLC0415 - loads the extension

    if key_separator == "":
        raise ConfigurationError("--key-separator is empty; give the text between key and value")
    with _opened(directory, write=True) as log, Producer(log, transactional_id=transactional_id) as producer:
        log.topic(topic)
        if transactional_id is not None:
            producer.init_transactions()
            producer.begin_transaction()
        count = 0
        for record in parsed_lines(sys.stdin.buffer, format is _Format.JSONL, key_separator):
            producer.produce(topic, **record)
            count += 1
        if transactional_id is not None:
            producer.commit_transaction()
    note(f"{topic}: {count_text(count)} records")


@app.command()
def tail(
    directory: _Directory,
    topic: _Topic,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new records until Ctrl-C.")] = False,
    from_beginning: Annotated[bool, typer.Option("--from-beginning", help="All records that there are.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="The last so many of each partition.")] = 10,
    partition: Annotated[int | None, typer.Option(metavar="N", help="Only this one.")] = None,
    group: Annotated[
        str | None,
        typer.Option(
            metavar="GROUP", help="Share the partitions with this group, from where it is; commits what was written."
        ),
    ] = None,
    format: Annotated[_Format, typer.Option(help="A value a line, or JSON with all there is.")] = _Format.VALUES,
) -> None:
    """Write records to standard output: a partition in order, partitions mixed."""
    from onceflow.cli.log_lines import json_line, value_line  # noqa: PLC0415 - loads msgspec
    from onceflow.log import Consumer  # noqa: PLC0415 - loads the extension

    if group is not None and (from_beginning or partition is not None):
        raise ConfigurationError(
            "--group reads from where the group is, and what falls to it: no --from-beginning or --partition with it"
        )
    line = json_line if format is _Format.JSONL else value_line
    with _opened(directory, write=group is not None) as log, Consumer(log, group) as consumer:
        log.topic(topic)
        if group is None:
            consumer.assign(_beginnings(log, topic, partition, None if from_beginning else lines))
        else:
            consumer.subscribe([topic])
        while messages := _next(consumer, follow=follow):
            sys.stdout.buffer.write(b"".join(map(line, messages)))
            sys.stdout.buffer.flush()
            if group is not None:
                consumer.commit()


#: Records that are read at once.
_CHUNK = 1_000


def _next(consumer: Consumer, *, follow: bool) -> list[Message]:
    """The next records; none at the end, which never comes with ``follow``."""
    return consumer.consume(_CHUNK, None if follow else 0)


def _beginnings(log: Log, topic: str, partition: int | None, last: int | None) -> list[TopicPartition]:
    """Where to begin: ``last`` records before the end of each partition, or at the beginning."""
    from onceflow.log import TopicPartition  # noqa: PLC0415 - loads the extension

    numbers = range(log.topic(topic).partitions) if partition is None else [partition]
    found = []
    for number in numbers:
        bounds = log.partition(topic, number)
        start = bounds.start if last is None else max(bounds.start, bounds.end - last)
        found.append(TopicPartition(topic, number, start))
    return found


@app.command()
def groups(
    directory: _Directory,
    state: Annotated[
        list[Path] | None,
        typer.Option(metavar="STATE", help="Also how far the job of this state directory is; may be repeated."),
    ] = None,
    as_json: _Json = False,
) -> None:
    """List who reads: consumer groups and, with --state, jobs; and which sinks of jobs write.

    Of a group: what it has committed, how far it is behind, and which member reads it. Of a job: where its newest
    checkpoint stands, how far that is behind. Of a sink: the newest checkpoint whose output is in the topic.
    """
    with _opened(directory) as log:
        found = log.groups()
        of_sinks = [group for group in found if group.group.startswith(_OF_SINK)]
        readers = [row for group in found if group not in of_sinks for row in _group_rows(log, group)]
        readers += [row for path in state or [] for row in _job_rows(log, path)]
        sinks = [row for group in of_sinks for row in _sink_rows(group)]
    if as_json:
        print_json(readers + sinks)
        return
    if not readers:
        note(f"{directory} has no consumer groups")
    else:
        names = ["group", "topic", "partition", "offset", "lag", "member"]
        cells = [
            [
                row["group"],
                row["topic"] or "-",
                "-" if row["partition"] is None else str(row["partition"]),
                "-" if row["offset"] is None else str(row["offset"]),
                "-" if row["lag"] is None else count_text(row["lag"]),
                row["member"] or "-",
            ]
            for row in readers
        ]
        print_table(names, cells, right=["partition", "offset", "lag"])
    if sinks:
        cells = [[row["job"], row["sink"], row["topic"], str(row["checkpoint"])] for row in sinks]
        print_table(["job", "sink", "writes to", "up to checkpoint"], cells, right=["up to checkpoint"])
        if not state:
            note(f"the lag of a job: onceflow log groups {directory} --state STATE")


def _group_rows(log: Log, group: LogGroup) -> list[dict[str, Any]]:
    readers = {place: member.member for member in group.members for place in member.partitions}
    rows = []
    for place in sorted({*group.offsets, *readers}):
        offset = group.offsets[place][0] if place in group.offsets else None
        rows.append(_reader_row("group", group.group, log, place, offset, readers.get(place)))
    idle = {member.member for member in group.members} - set(readers.values())
    nothing = {"kind": "group", "group": group.group, "topic": None, "partition": None, "offset": None, "lag": None}
    return rows + [{**nothing, "member": member} for member in sorted(idle)]


def _reader_row(
    kind: str, name: str, log: Log, place: tuple[str, int], offset: int | None, member: str | None
) -> dict[str, Any]:
    bounds = log.partition(*place)
    return {
        "kind": kind,
        "group": name,
        "topic": place[0],
        "partition": place[1],
        "offset": offset,
        "lag": bounds.end - (bounds.start if offset is None else min(offset, bounds.end)),
        "member": member,
    }


def _job_rows(log: Log, state: Path) -> list[dict[str, Any]]:
    """Where the sources of a job stand that read this log, by its newest checkpoint."""
    import msgspec  # noqa: PLC0415 - not needed by every command

    with reader(state) as backend:
        job = backend.job
        sound = [info for info in backend.checkpoints() if info.damage is None]
    names = {topic.number: topic.name for topic in log.topics()}
    rows = []
    for name, blob in sorted(sound[-1].blobs.items()) if sound else []:
        position = msgspec.msgpack.decode(blob)["position"] if name.startswith("source/") else None
        if not isinstance(position, dict) or position.get("log") != log.native.id or position["topic"] not in names:
            continue
        source, _, partition = name.removeprefix("source/").rpartition("/")
        place = (names[position["topic"]], int(partition))
        rows.append(_reader_row("job", f"job {job}, source {source}", log, place, position["offset"], None))
    if not rows:
        note(f"job {job} in {state} has no checkpoint that reads from {log.path}")
    return rows


def _sink_rows(group: LogGroup) -> list[dict[str, Any]]:
    job, _, sink = group.group.removeprefix(_OF_SINK).rpartition("/")
    nothing = {"partition": None, "offset": None, "lag": None, "member": None}
    row = {"kind": "sink", "group": group.group, "job": job, "sink": sink, **nothing}
    return [{**row, "topic": topic, "checkpoint": offset} for (topic, _), (offset, *_) in group.offsets.items()]


@app.command()
def transactions(directory: _Directory, as_json: _Json = False) -> None:
    """List transactional producers: their epochs, and what they have open.

    Small transactions are in their producer's memory until the commit; only what is on the disk already is shown.
    """
    with _opened(directory) as log:
        found, log_ms = log.transactions(), log.now_ms()
    if as_json:
        print_json([_transaction_row(info, log_ms) for info in found])
    elif not found:
        note(f"{directory} has no transactional producers")
    else:
        cells = [
            [
                info.transactional_id,
                str(info.producer_id),
                str(info.producer_epoch),
                "-" if info.started_ms is None else time_text(_wall_ms(log_ms, info.started_ms)),
                bytes_text(info.staged_bytes),
                duration_text(info.timeout_ms / 1000),
                info.last_outcome or "none yet",
            ]
            for info in found
        ]
        names = ["transactional id", "producer", "epoch", "open since", "on disk", "timeout", "last one"]
        print_table(names, cells, right=["producer", "epoch", "on disk"])


def _wall_ms(log_ms: int, then_ms: int) -> int:
    """What the wall clock would have shown when the log's clock did."""
    return round(time.time() * 1000) - (log_ms - then_ms)


def _transaction_row(info: LogProducerInfo, log_ms: int) -> dict[str, Any]:
    return {
        "transactional_id": info.transactional_id,
        "producer_id": info.producer_id,
        "producer_epoch": info.producer_epoch,
        "started_ms": None if info.started_ms is None else _wall_ms(log_ms, info.started_ms),
        "staged_bytes": info.staged_bytes,
        "timeout_ms": info.timeout_ms,
        "last_outcome": info.last_outcome,
    }
