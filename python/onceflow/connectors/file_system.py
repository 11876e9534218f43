"""What the file system of a directory says before anything is written there: rights, room, and what kind it is."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from onceflow.checks import Finding

__all__ = ["judged", "kind_among", "look_at_directory", "size_text"]

_MOUNTS = Path("/proc/self/mountinfo")

#: File systems of other machines: what one machine has synced and renamed, another one may see late, or never.
_NETWORK = {"afs", "beegfs", "ceph", "cifs", "glusterfs", "gpfs", "lustre", "nfs", "nfs4", "smb3", "smbfs"}
#: Those that programs provide: what a sync does there is up to the program.
_PROGRAMS = "fuse."
_MEMORY = {"ramfs", "tmpfs"}

_LITTLE_BYTES = 1 << 30
_TOO_LITTLE_BYTES = 16 << 20


def look_at_directory(path: Path) -> Iterator[Finding]:
    """Whether files can be made in a directory, or the directory itself if it is missing; makes neither."""
    subject, there = f"directory {path}", _nearest(path)
    if not os.path.isdir(there):  # noqa: PTH112 - Path raises where the way there is closed
        yield Finding("error", subject, f"{there} is not a directory", "give another path, or move it away")
    elif not os.access(there, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
        yield Finding("error", subject, f"{there} cannot be written by this user", "allow it, or give another path")
    else:
        found, kind = os.statvfs(there), _kind_of(there)
        yield from judged(subject, kind, found)
        state, free = "is there" if there == path else "will be made", found.f_bavail * found.f_frsize
        yield Finding("ok", subject, f"{state}; {kind or 'file system of unknown kind'}, {size_text(free)} free")


def judged(subject: str, kind: str, found: os.statvfs_result) -> Iterator[Finding]:
    """What is wrong with a file system.

    Args:
        subject: What lies there.
        kind: Such as ``ext4``; empty if it is not known.
        found: What statvfs(3) says of it.
    """
    free = found.f_bavail * found.f_frsize
    if found.f_flag & os.ST_RDONLY:
        yield Finding("error", subject, "its file system is read-only", "mount it for writing")
    if free < _TOO_LITTLE_BYTES:
        yield Finding("error", subject, f"its file system is full: {size_text(free)} are free", "make room")
    elif found.f_files and not found.f_favail:
        yield Finding("error", subject, "its file system has no room for another file (no inodes)", "make room")
    elif free < _LITTLE_BYTES:
        yield Finding("warning", subject, f"only {size_text(free)} are free", "make room before the job needs it")
    if kind in _NETWORK or kind.startswith(_PROGRAMS):
        yield Finding(
            "warning",
            subject,
            f"it lies on {kind}: whether what was synced or renamed survives a power cut is up to another machine or "
            "program",
            "use a local file system, or know that this one keeps it",
        )
    elif kind in _MEMORY:
        yield Finding(
            "warning",
            subject,
            f"it lies on {kind}, in memory: a restart of the machine empties it",
            "use a file system on a disk",
        )


def kind_among(mounts: Iterable[str], path: str) -> str:
    """The kind of the file system that an absolute path without links lies on; empty if no mount has it.

    Args:
        mounts: Lines of ``/proc/self/mountinfo``, see proc(5).
        path: Its text.
    """
    best, kind = "", ""
    for line in mounts:
        # ... root, mount point, options, optional fields, "-", kind, source, options
        before, _, after = line.partition(" - ")
        point = _unescaped(before.split(" ")[4])
        # A later mount covers an earlier one at the same place.
        if len(point) >= len(best) and (path == point or path.startswith(point.rstrip("/") + "/")):
            best, kind = point, after.split(" ")[0]
    return kind


def size_text(size: int) -> str:
    """Bytes in a unit of about their size."""
    for unit, name in ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size} B"


def _kind_of(path: Path) -> str:
    """Empty where the system does not tell."""
    try:
        with _MOUNTS.open(encoding="utf-8", errors="surrogateescape") as mounts:
            return kind_among(mounts, os.path.realpath(path))
    except OSError:
        return ""


def _nearest(path: Path) -> Path:
    """The path, or the part of it that is there."""
    while not os.path.lexists(path) and path != path.parent:
        path = path.parent
    return path


def _unescaped(text: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, character)
    return text
