"""Settings of Kafka's clients: what is refused, and that secrets stay where they are. No broker is needed."""

from __future__ import annotations

import pickle
import traceback

import pytest
from confluent_kafka import KafkaError, KafkaException

from onceflow.connectors.kafka.settings import KafkaSettings, kafka_error
from onceflow.exceptions import ConfigurationError, SourceError

SECRET = "swordfish-4711"


@pytest.mark.parametrize(
    "bootstrap", [None, "", "  ", 9092, ["localhost:9092"]], ids=["none", "empty", "blank", "int", "list"]
)
def test_no_address(bootstrap):
    """What is no address is refused when it is given, not when a connection fails."""
    with pytest.raises(ConfigurationError, match="bootstrap="):
        KafkaSettings(bootstrap)


def test_config_that_is_no_mapping_is_not_shown():
    """A config of the wrong shape may hold a password all the same."""
    with pytest.raises(ConfigurationError, match="config is a list") as caught:
        KafkaSettings("localhost:9092", [("sasl.password", SECRET)])
    assert SECRET not in str(caught.value)


def test_settings_that_the_connector_makes():
    """A setting that would be overwritten without a word is refused, and says what to give instead."""
    with pytest.raises(ConfigurationError, match="give bootstrap="):
        KafkaSettings("localhost:9092", {"bootstrap.servers": "elsewhere:9092"})
    settings = KafkaSettings("localhost:9092", {"isolation.level": "read_committed"})
    with pytest.raises(ConfigurationError, match="give isolation="):
        settings.merged({"isolation.level": "x"}, {}, instead={"isolation.level": "give isolation="})


def test_defaults_give_way_to_config():
    """What a user sets wins over what a connector would set."""
    merged = KafkaSettings("localhost:9092", {"fetch.max.bytes": 5}).merged({}, {"fetch.max.bytes": 6, "linger.ms": 7})
    assert (merged["fetch.max.bytes"], merged["linger.ms"]) == (5, 7)


@pytest.mark.parametrize(
    "config",
    [
        {"ssl.key.pem": SECRET, "security.protocol": "ssl"},
        {"sasl.password": SECRET, "security.protocol": SECRET},
        {"sasl.oauthbearer.client.secret": SECRET, "no.such.setting": SECRET},
    ],
    ids=["value", "other", "name"],
)
def test_secrets_are_in_no_text(config):
    """librdkafka's refusals quote values; neither they nor what shows an error's causes may hold a secret."""
    settings = KafkaSettings("localhost:9092", config)
    with pytest.raises(ConfigurationError, match="refuses its settings") as caught:
        settings.consumer(settings.merged({"group.id": "g"}, {}))
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert SECRET not in repr(settings)


def test_settings_travel_with_a_dataflow():
    """A dataflow can be pickled for another process, its settings too."""
    again = pickle.loads(pickle.dumps(KafkaSettings("localhost:9092", {"sasl.password": SECRET})))
    assert (again.bootstrap, again.get("sasl.password")) == ("localhost:9092", SECRET)


def test_errors_of_the_client_become_ours():
    """A caller sees one tree of errors, with the name of the client's error and without its secrets."""
    settings = KafkaSettings("localhost:9092", {"sasl.password": SECRET})
    with (
        pytest.raises(SourceError, match=r"reading: UNKNOWN_TOPIC_OR_PART: of \*\*\*$"),
        settings.errors(SourceError, "reading"),
    ):
        raise KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART, f"of {SECRET}", retriable=True))
    assert kafka_error(KafkaException(KafkaError(1, fatal=True))).fatal()
    assert kafka_error(ValueError("x")) is None
