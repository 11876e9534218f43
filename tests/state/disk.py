"""Damage to a state directory, as a bad disk does it: bytes of a value change, LMDB's structure does not."""

from __future__ import annotations

from pathlib import Path

import lmdb


def values(state: Path, database: str) -> dict[bytes, bytes]:
    """All values of ``records`` or ``chunks`` by key, as LMDB has them."""
    with lmdb.open(str(state / "data"), readonly=True, lock=False, max_dbs=8) as environment:
        opened = environment.open_db(database.encode(), create=False)
        with environment.begin(opened) as transaction:
            return dict(transaction.cursor())


def checkpoint_of(database: str, key: bytes) -> int:
    """The checkpoint that wrote a value."""
    start = 4 if database == "chunks" else 0
    return int.from_bytes(key[start : start + 8], "big")


def damage(state: Path, database: str, checkpoint: int) -> None:
    """Changes a byte in each value that this checkpoint wrote."""
    file = state / "data" / "data.mdb"
    content = bytearray(file.read_bytes())
    hit = False
    for key, value in values(state, database).items():
        if checkpoint_of(database, key) != checkpoint:
            continue
        at = content.find(value)
        while at != -1:
            content[at + len(value) // 2] ^= 0x40
            hit = True
            at = content.find(value)
    assert hit, f"checkpoint {checkpoint} has no {database}"
    file.write_bytes(content)
