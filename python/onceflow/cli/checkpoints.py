"""``onceflow checkpoints``: what a state directory holds, and whether it is sound."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onceflow.cli.console import error, note, out, print_json, print_table
from onceflow.cli.directory import DIRECTORY_HELP, job_record, reader
from onceflow.cli.errors import ExitCode
from onceflow.cli.units import bytes_text, count_text, duration_text, time_text
from onceflow.cli.verification import Verdict, verify_in_child
from onceflow.runtime.cost import costs
from onceflow.runtime.resume_from import checkpoint_of

if TYPE_CHECKING:
    from onceflow._native import CheckpointInfo

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True, help="Look at the checkpoints of a state directory; a job may be running in it."
)

_Directory = Annotated[Path, typer.Argument(metavar="DIR", help=DIRECTORY_HELP)]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def ls(directory: _Directory, as_json: _Json = False) -> None:
    """List checkpoints, oldest first. A job resumes from the newest one that it has not left by going back."""
    with reader(directory) as backend:
        job, known, resumes_from = backend.job, backend.checkpoints(), backend.resumes_from
        file_bytes, used_bytes = backend.size()
    if as_json:
        print_json(
            {
                "job": job,
                "file_bytes": file_bytes,
                "used_bytes": used_bytes,
                "resumes_from": resumes_from,
                "checkpoints": [_summary(info) for info in known],
            }
        )
        return
    note(f"job {job}, {bytes_text(file_bytes)} on disk, {bytes_text(used_bytes)} in use")
    if not known:
        note("no checkpoints yet")
        return
    columns = ["id", "time", "job epoch", "lineage", "savepoint", "rows", "bytes", "chunks", "staged", "damage"]
    right = ["id", "job epoch", "lineage", "rows", "bytes", "chunks", "staged"]
    if not any(info.savepoint for info in known):
        columns.remove("savepoint")
    if resumes_from != known[-1].id:
        begins = "from nothing" if resumes_from is None else f"from checkpoint {resumes_from}"
        note(f"the job goes on {begins}: it has gone back, or what is newer is damaged")
    print_table(columns, [[_cells(info)[name] for name in columns] for info in known], right=right)


def _cells(info: CheckpointInfo) -> dict[str, str]:
    if info.damage is not None:
        unknown = dict.fromkeys(("time", "job epoch", "lineage", "savepoint", "rows", "bytes", "chunks", "staged"), "?")
        return {**unknown, "id": str(info.id or "?"), "damage": info.damage}
    return {
        "id": str(info.id),
        "time": time_text(info.created_unix_ms),
        "job epoch": str(info.job_epoch),
        "lineage": str(info.lineage),
        "savepoint": info.savepoint or "",
        "rows": count_text(sum(info.tables.values())),
        "bytes": bytes_text(info.bytes),
        "chunks": count_text(info.chunks),
        "staged": str(len(info.staged)),
        "damage": "none",
    }


def _summary(info: CheckpointInfo) -> dict[str, Any]:
    """For machines; null where damage hides it."""
    if info.damage is not None:
        unknown = ("time", "job_epoch", "lineage", "savepoint", "rows", "bytes", "chunks", "staged")
        return {"id": info.id or None, **dict.fromkeys(unknown), "damage": info.damage}
    return {
        "id": info.id,
        "time": datetime.fromtimestamp(info.created_unix_ms / 1000, UTC),
        "job_epoch": info.job_epoch,
        "lineage": info.lineage,
        "savepoint": info.savepoint,
        "rows": sum(info.tables.values()),
        "bytes": info.bytes,
        "chunks": info.chunks,
        "staged": {sink: len(data) for sink, data in sorted(info.staged.items())},
        "damage": None,
    }


@app.command()
def show(
    directory: _Directory,
    wanted: Annotated[
        str,
        typer.Argument(
            metavar="N|NAME|newest", help="Its id, the name of a savepoint, or the one that a run would resume from."
        ),
    ],
    as_json: _Json = False,
) -> None:
    """Show one checkpoint: tables, positions, what the sinks staged."""
    with reader(directory) as backend:
        job, info = backend.job, checkpoint_of(backend, int(wanted) if wanted.isdecimal() else wanted)
        later = [each for each in backend.checkpoints() if each.id > info.id]
    if as_json:
        print_json({"job": job, **_summary(info), **({} if info.damage else _details(info, later))})
    elif info.damage is None:
        _show(job, info, later)
    if info.damage is not None:
        error(f"checkpoint {wanted} is damaged: {info.damage}")
        raise typer.Exit(ExitCode.FAILED)


def _details(info: CheckpointInfo, later: list[CheckpointInfo]) -> dict[str, Any]:
    job = job_record(info)
    return {
        "tables": info.tables,
        "positions": _positions(info),
        "operators": {
            name.removeprefix("operator/"): len(data)
            for name, data in sorted(info.blobs.items())
            if name.startswith("operator/")
        },
        "run": None
        if job is None
        else {
            "guarantee": job.guarantee,
            "codec": job.codec,
            "batch_size": job.batch_size,
            "finished": job.finished,
            "workers": job.workers,
            "counts": job.counts,
            "steps": job.steps,
        },
        "cost": None if job is None else costs(info, later),
    }


def _positions(info: CheckpointInfo) -> dict[str, Any]:
    """Where each source partition resumes, by step id and partition; or what a program gave the state backend."""
    import msgspec  # noqa: PLC0415 - not needed for the help

    positions: dict[str, Any] = dict(info.positions)
    for name, blob in info.blobs.items():
        if name.startswith("source/"):
            positions[name.removeprefix("source/")] = msgspec.msgpack.decode(blob)["position"]
    return dict(sorted(positions.items()))


def _show(job_name: str, info: CheckpointInfo, later: list[CheckpointInfo]) -> None:
    details = _details(info, later)
    say = out().print
    lines = [
        ("job", job_name),
        ("time", time_text(info.created_unix_ms)),
        ("job epoch", str(info.job_epoch)),
        ("lineage", str(info.lineage)),
        ("savepoint", info.savepoint or "no"),
        ("state", f"{count_text(sum(info.tables.values()))} rows, {bytes_text(info.bytes)}, {info.chunks} chunks"),
    ]
    run = details["run"]
    if run is not None:
        counts = run["counts"]
        lines += [
            ("guarantee", run["guarantee"]),
            ("settings", f"batch size {run['batch_size']}, codec {run['codec']}"),
            ("records", f"{count_text(counts['records_in'])} in, {count_text(counts['records_out'])} out"),
            ("workers", _workers_text(run["workers"])),
            ("sources", "ended, everything is written" if run["finished"] else "go on"),
        ]
        lines += _cost_lines(details["cost"])
    say(f"checkpoint {info.id}", style="bold")
    for name, text in lines:
        say(f"  {name:<10} {text}", soft_wrap=True)
    steps = [] if run is None else [[name, kind] for name, kind in run["steps"].items()]
    sections: list[tuple[str, list[str], list[list[str]]]] = [
        ("steps with state", ["step", "what"], steps),
        ("tables", ["table", "rows"], [[name, count_text(rows)] for name, rows in sorted(info.tables.items())]),
        ("positions", ["source", "position"], [[name, _plain(value)] for name, value in details["positions"].items()]),
        (
            "operator snapshots",
            ["step", "bytes"],
            [[name, bytes_text(size)] for name, size in details["operators"].items()],
        ),
        (
            "staged for sinks",
            ["sink", "bytes"],
            [[name, bytes_text(len(data))] for name, data in sorted(info.staged.items())],
        ),
    ]
    for title, columns, rows in sections:
        if rows:
            say(f"\n{title}", style="bold")
            print_table(columns, rows, right=["rows", "bytes"])


def _workers_text(count: int) -> str:
    return "1" if count == 1 else f"{count}, whose tables lie in workers/0 to workers/{count - 1} of the directory"


def _cost_lines(cost: dict[str, Any]) -> list[tuple[str, str]]:
    lines = []
    if cost["sync_s"] is not None:
        start, aligned, sync = (duration_text(cost[name]) for name in ("start_delay_s", "alignment_s", "sync_s"))
        lines.append(("cut", f"{sync} of the worker's time, barriers {start} on their way, {aligned} of alignment"))
    if cost["async_s"] is not None:
        written, durable = duration_text(cost["async_s"]), duration_text(cost["durable_s"])
        lines.append(("written", f"{bytes_text(cost['bytes_written'])} in {written}, durable {durable} after the cut"))
    return lines


def _plain(value: Any) -> str:
    import msgspec  # noqa: PLC0415 - see above

    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


@app.command()
def verify(directory: _Directory, as_json: _Json = False) -> None:
    """Read every record and chunk and check it. Exit code 1 if there is damage.

    Runs in a process of its own, so that damage which kills it is a verdict too.
    """
    # Several workers have a store each.
    stores = {"": directory, **{f"{path.parent.name}/{path.name}": path for path in _stores_of_workers(directory)}}
    reports = {name: verify_in_child(path) for name, path in stores.items()}
    if as_json:
        whole, *_ = verdicts = [_verdict(report) for report in reports.values()]
        print_json({**whole, "workers": dict(zip(list(reports)[1:], verdicts[1:], strict=True))})
    else:
        for name, report in reports.items():
            _print_verdict(name, report)
    if not all(report.sound for report in reports.values()):
        error(f"{directory} is damaged")
        raise typer.Exit(ExitCode.FAILED)


def _stores_of_workers(directory: Path) -> list[Path]:
    return sorted(path for path in (directory / "workers").glob("*") if path.is_dir())


def _verdict(report: Verdict) -> dict[str, Any]:
    return {
        "sound": report.sound,
        "checkpoints": report.checkpoints,
        "chunks": report.chunks,
        "bytes": report.bytes,
        "damage": [{"checkpoint": number, "reason": reason} for number, reason in report.damage],
    }


def _print_verdict(store: str, report: Verdict) -> None:
    of_store = f"{store}: " if store else ""
    ids = ", ".join(map(str, report.checkpoints)) or "none"
    out().print(f"{of_store}sound checkpoints: {ids}", soft_wrap=True)
    out().print(f"{of_store}sound chunks: {count_text(report.chunks)}, {bytes_text(report.bytes)}", soft_wrap=True)
    for number, reason in report.damage:
        where = "" if number is None else f"checkpoint {number}: "
        out().print(f"{of_store}damaged: {where}{reason}", soft_wrap=True)
