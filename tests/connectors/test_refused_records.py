"""The file of refused records: each once, whoever adds it and when."""

from __future__ import annotations

import sqlite3
import threading
from datetime import UTC, datetime

import pytest

from onceflow.connectors.dead_letters import DeadLetter, DeadLetters, read_dead_letters
from onceflow.exceptions import SinkError

MOMENT = datetime(2024, 1, 1, tzinfo=UTC)


def letter(number, record=None):
    return DeadLetter(f"key-{number}", "job", "out", "no", number if record is None else record)


def test_a_letter_is_kept_once(tmp_path):
    """Kind: a record that is among the dead letters twice after a crash."""
    path = tmp_path / "letters"
    for _ in range(2):
        letters = DeadLetters(path)
        letters.add([letter(1), letter(2)])
        letters.add([letter(2), letter(3)])
        assert letters.known([f"key-{number}" for number in range(2000)]) == {"key-1", "key-2", "key-3"}
        letters.close()
    assert read_dead_letters(path) == [letter(1), letter(2), letter(3)]


def test_records_come_back_as_they_were(tmp_path):
    """Kind: a record that cannot be sent again, since it is another one by now."""
    record = {"at": MOMENT, "raw": b"\x00\xff", "parts": (1, 2.5, None), "big": 1 << 80}
    letters = DeadLetters(tmp_path / "letters")
    letters.add([letter(1, record), letter(2, {"name": "é"})])
    with pytest.raises(SinkError, match="cannot be kept"):
        letters.add([letter(3, object())])
    letters.close()
    first, second = read_dead_letters(tmp_path / "letters")
    assert first.record == record
    assert type(first.record["parts"]) is tuple
    # For people, where JSON has it.
    with sqlite3.connect(tmp_path / "letters") as db:
        assert db.execute("select text from dead_letters where key = 'key-2'").fetchall() == [('{"name":"é"}',)]
    db.close()
    assert second.reason == "no"


def test_two_sinks_share_a_file(tmp_path):
    """Kind: a writer that fails because another one is at it."""
    errors = []

    def add(start):
        letters = DeadLetters(tmp_path / "letters")
        try:
            for number in range(start, start + 40):
                letters.add([letter(number)])
        except SinkError as error:
            errors.append(error)
        letters.close()

    threads = [threading.Thread(target=add, args=(start,)) for start in (0, 20, 40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert sorted(one.record for one in read_dead_letters(tmp_path / "letters")) == list(range(80))


def test_nothing_is_made_before_the_first_letter(tmp_path):
    """Kind: a start that is refused later and has left a file."""
    letters = DeadLetters(tmp_path / "letters")
    assert letters.known(["key-1"]) == set()
    letters.close()
    assert not (tmp_path / "letters").exists()
    assert read_dead_letters(tmp_path / "letters") == []


def test_a_file_of_something_else(tmp_path):
    """Kind: a table that is written into somebody's database."""
    path = tmp_path / "mine"
    with sqlite3.connect(path) as db:
        db.execute("create table dead_letters (mine)")
    db.close()
    with pytest.raises(SinkError, match="dead letters cannot be kept"):
        DeadLetters(path)
    with pytest.raises(SinkError, match="is not a file of dead letters"):
        read_dead_letters(path)
