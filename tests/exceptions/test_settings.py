"""An argument that is refused by its name in the text is named in a field too, whoever refuses it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import onceflow
from onceflow.connectors.files import CsvSource, ParquetSource
from onceflow.connectors.http import HttpSink
from onceflow.connectors.kafka import KafkaSource
from onceflow.connectors.polling import PollingSource
from onceflow.connectors.postgres import PostgresSink
from onceflow.connectors.redis import RedisSink
from onceflow.connectors.sql import SqlSink
from onceflow.exceptions import ConfigurationError

PACKAGE = Path(onceflow.__file__).parent
#: ``CsvSink: delimiter={``: a name, and its value.
BEGINS = re.compile(r"(?:\w+: )?(?:[a-z_]+|\{name\}|\{setting\})(?:=|=\{\{| is | is a )\{")
#: Names with values: several of them are about what does not go together.
NAMED = re.compile(r"\b[a-z_]+(?:=| )\{(?:self\.)?[a-z_]+!r\}")


def text_of(call: ast.Call) -> str:
    """The text of an error as it is written, without the quotes."""
    return ast.unparse(call.args[0])[2:-1] if isinstance(call.args[0], ast.JoinedStr) else ""


def test_an_argument_that_is_refused_is_named_in_a_field():
    """Kind: a program that shows a form has to find in a sentence which of its fields is wrong."""
    looked_at, unnamed = 0, []
    for path in sorted(PACKAGE.rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(call, ast.Call) and getattr(call.func, "id", "") == "ConfigurationError" and call.args):
                continue
            text = text_of(call)
            if BEGINS.match(text) and len(NAMED.findall(text)) < 2:
                looked_at += 1
                if all(word.arg != "setting" for word in call.keywords):
                    unnamed.append(f"{path.relative_to(PACKAGE)}:{call.lineno}: {text}")
    assert unnamed == []
    assert looked_at > 80


@pytest.mark.parametrize(
    ("make", "setting"),
    [
        (lambda: CsvSource("in.csv", delimiter="ab"), "delimiter"),
        (lambda: CsvSource("in.csv", on_malformed="no"), "on_malformed"),
        (lambda: ParquetSource(7), "paths"),
        (lambda: HttpSink("http://127.0.0.1:1", timeout_s=0), "timeout_s"),
        (lambda: KafkaSource("127.0.0.1:1", "topic", isolation="no"), "isolation"),
        (lambda: PollingSource(lambda position: [], every=3), "every"),
        (lambda: PostgresSink("postgresql://127.0.0.1/x", "t", mode="no"), "mode"),
        (lambda: RedisSink("redis://127.0.0.1:1/0", key="k", mode="no"), "mode"),
        (lambda: SqlSink("sqlite:///x.db", "t", mode="no"), "mode"),
        (lambda: onceflow.Dataflow("d", deterministic=1), "deterministic"),
    ],
)
def test_it_is_the_name_of_the_argument(make, setting):
    with pytest.raises(ConfigurationError) as refusal:
        make()
    assert refusal.value.setting == setting
