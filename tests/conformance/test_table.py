"""The table of differences names what the installed confluent_kafka has and the embedded log has not, and no more."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import confluent_kafka
import pytest
from signatures import differences, methods, theirs

import onceflow.log
from onceflow.exceptions import OnceflowError

DOCS = Path(__file__).resolve().parents[2] / "docs" / "log.md"
OURS = {
    "Producer": onceflow.log.Producer,
    "Consumer": onceflow.log.Consumer,
    "TopicPartition": onceflow.log.TopicPartition,
    "Message": onceflow.log.Message,
    "KafkaError": OnceflowError,
}


@pytest.fixture(scope="module")
def named() -> set[str]:
    """What the first column of the table names."""
    section = DOCS.read_text().partition("## Where it differs from Kafka")[2]
    rows = [line.split(" | ")[0] for line in section.splitlines() if line.startswith("| ")]
    assert len(rows) > 20
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


@pytest.mark.parametrize("name", OURS)
def test_what_is_missing_or_has_another_default_is_named(name, named):
    """A method, an argument or a default of a new release of confluent_kafka that nobody has looked at."""
    assert differences(name, OURS[name]) - named == set()


def test_each_call_of_the_admin_client_is_named(named):
    """There is none here: each of its calls has something in its place, or a reason."""
    assert {f"AdminClient.{each}" for each in methods(theirs()["AdminClient"])} - named == set()


def test_each_class_is_there_or_named(named):
    """A class or constant of a new release that nobody has looked at."""
    public = {
        name
        for name, value in vars(confluent_kafka).items()
        if not name.startswith("_") and (inspect.isclass(value) or isinstance(value, int))
    }
    known = {name.partition(".")[0].partition("(")[0] for name in named}
    assert public - known - set(dir(onceflow.log)) == set()


def test_what_is_named_is_there(named):
    """A row about a method that confluent_kafka has no more, or that never was."""
    classes = theirs()
    for each in named:
        found = re.fullmatch(r"(\w+)\.(\w+)(?:: \w+)?", each)
        if found and found[1] in classes:
            assert hasattr(classes[found[1]], found[2]), each


@pytest.mark.parametrize("name", ["OFFSET_BEGINNING", "OFFSET_END", "OFFSET_STORED", "OFFSET_INVALID"])
def test_constants_are_the_same(name):
    """An offset that means something else there."""
    assert getattr(onceflow.log, name) == getattr(confluent_kafka, name)


def test_codes_of_errors_are_kafkas():
    """A code that Kafka does not have, or has for something else."""
    codes = {getattr(confluent_kafka.KafkaError, name) for name in dir(confluent_kafka.KafkaError) if name.isupper()}
    errors = [each for each in vars(onceflow.exceptions).values() if inspect.isclass(each)]
    assert {each.kafka_code for each in errors if issubclass(each, OnceflowError)} - codes == set()
