"""A broker that wants a password over TLS, and rights for whatever is done: what is lacking is named, and no secret."""

from __future__ import annotations

import json
import time

import pytest
import topics
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    ResourcePatternType,
    ResourceType,
)
from services.kafka.guarded import GuardedBroker, make_authority
from services.process import ServerUnavailableError

import onceflow as of
from onceflow.connectors.kafka import KafkaPlainSink, KafkaSink, KafkaSource, group
from onceflow.connectors.kafka.destination import transactional_id_of
from onceflow.connectors.kafka.markers import marker_topic_of
from onceflow.exceptions import OnceflowError, SinkError, SourceError
from onceflow.testing import TestingSource

#: A broker's first answers take long where the machine is busy.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore::onceflow.exceptions.{name}WaitingWarning") for name in ("Source", "Sink")
]

PASSWORD = "correct-horse-4711"
WRONG = "swordfish-4712"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """With a user alice."""
    try:
        broker = GuardedBroker(tmp_path_factory.mktemp("guarded"), {"alice": PASSWORD})
    except ServerUnavailableError as error:
        pytest.skip(str(error))
    with broker:
        yield broker


def config(broker, **changes):
    given = {
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "SCRAM-SHA-256",
        "sasl.username": "alice",
        "sasl.password": PASSWORD,
        "ssl.ca.location": str(broker.authority),
    }
    return given | {name.replace("_", "."): value for name, value in changes.items()}


class Rights:
    """What alice may do."""

    def __init__(self, broker):
        self._admin = topics.admin(broker.bootstrap)

    def only(self, *rights: tuple[str, str, str]):
        """Kinds and names of resources, and operations."""
        everything = AclBindingFilter(
            ResourceType.ANY, None, ResourcePatternType.ANY, "User:alice", None, AclOperation.ANY, AclPermissionType.ANY
        )
        for future in self._admin.delete_acls([everything]).values():
            future.result(30)
        bindings = [
            AclBinding(
                ResourceType[kind],
                name,
                ResourcePatternType.LITERAL,
                "User:alice",
                "*",
                AclOperation[operation],
                AclPermissionType.ALLOW,
            )
            for kind, name, operation in rights
        ]
        for future in self._admin.create_acls(bindings).values():
            future.result(30)
        until = time.monotonic() + 60
        # The controller knows them; whether the broker does, it says itself.
        while set(self._admin.describe_acls(everything).result(30)) != set(bindings):
            assert time.monotonic() < until, "the broker does not come to know what is allowed"
            time.sleep(0.05)


class Job:
    """Reads a topic and writes to another one."""

    def __init__(self, broker):
        self.broker = broker
        self.name = topics.name("guarded")
        self.source, self.target, self.group = f"{self.name}-in", f"{self.name}-out", f"{self.name}-lag"
        for topic in (self.source, self.target):
            topics.create(broker.bootstrap, topic)
        producer = topics.producer(broker.bootstrap, None)
        for number in range(3):
            producer.produce(self.source, b"%d" % number)
        assert producer.flush(30) == 0
        markers = marker_topic_of(self.name, "out")
        self.rights = {
            *(("TOPIC", self.source, operation) for operation in ("READ", "DESCRIBE_CONFIGS")),
            *(("TOPIC", self.target, operation) for operation in ("WRITE", "DESCRIBE_CONFIGS")),
            *(("TOPIC", markers, operation) for operation in ("READ", "WRITE", "CREATE", "DESCRIBE_CONFIGS")),
            ("TRANSACTIONAL_ID", transactional_id_of(self.name, "out", 0), "WRITE"),
            ("GROUP", self.group, "READ"),
            ("GROUP", markers, "READ"),
        }

    def flow(self, **changes):
        settings = config(self.broker, **changes)
        flow = of.Dataflow(self.name)
        source = KafkaSource(
            self.broker.guarded, self.source, decode="json", group=self.group, config=settings, connect_timeout_s=20
        )
        sink = KafkaSink(self.broker.guarded, self.target, config=settings, timeout_s=20)
        flow.source("in", source).sink("out", sink)
        return flow

    def lacking(self):
        """What a look finds wrong."""
        found = [one for checked in self.flow().check() for one in checked.findings]
        return [f"{one.subject}: {one.text}: {one.advice}" for one in found if one.level == "error"]


def test_a_user_with_the_rights_that_the_page_names(guarded, state):
    """Kind: a right that is needed and nobody has named, in a look or in the job."""
    job = Job(guarded)
    Rights(guarded).only(*job.rights)
    assert job.lacking() == []
    assert of.run(job.flow(), state).finished
    assert [json.loads(message.value()) for message in topics.read(guarded.bootstrap, job.target)] == [0, 1, 2]
    # Once more, with the markers there.
    assert job.lacking() == []


LACKING = {
    "to read": ("TOPIC", "-in", "READ", "SourceError"),
    "to write": ("TOPIC", "-out", "WRITE", "SinkError"),
    "settings of the output": ("TOPIC", "-out", "DESCRIBE_CONFIGS", "SinkError"),
    "to make the markers": ("TOPIC", "onceflow-markers", "CREATE", "SinkError"),
    "to read the markers": ("TOPIC", "onceflow-markers", "READ", "SinkError"),
    "to write the markers": ("TOPIC", "onceflow-markers", "WRITE", "SinkError"),
    "the group of the source": ("GROUP", "-lag", "READ", "SourceError"),
    "the group of the markers": ("GROUP", "onceflow-markers", "READ", "SinkError"),
    "the transactional id": ("TRANSACTIONAL_ID", "onceflow/", "WRITE", "SinkError"),
}


@pytest.mark.parametrize("case", LACKING)
def test_a_right_that_is_lacking(guarded, state, case, monkeypatch):
    """Kind: a job that hangs, or says of a refusal that the server is away; a look that finds all well before it."""
    # On a busy machine the broker has not said so yet when a short run ends.
    monkeypatch.setattr(group, "_LAST_S", 30.0)
    job = Job(guarded)
    kind, part, operation, error = LACKING[case]
    # The name of the markers' topic has that of the output in it.
    [gone] = [
        right
        for right in job.rights
        if (right[0], right[2]) == (kind, operation) and (right[1].startswith(part) or right[1].endswith(part))
    ]
    left = job.rights - {gone}
    if "markers" in case and operation != "CREATE":
        # Of a topic that does not exist no broker says who may write to it.
        topics.create(guarded.bootstrap, marker_topic_of(job.name, "out"), cleanup_policy="compact")
    Rights(guarded).only(*left)
    [told] = job.lacking()
    assert operation in told or case == "to make the markers", told
    assert part in told
    began_s = time.monotonic()
    # Of a transaction that may not be written the client only says that it was given up.
    with pytest.raises(OnceflowError, match=r"AUTHORIZATION_FAILED|could be written to 'onceflow-markers") as caught:
        of.run(job.flow(), state)
    assert type(caught.value).__name__ == error
    assert time.monotonic() - began_s < 60
    assert PASSWORD not in str(caught.value)
    if case != "the group of the source":
        # Of a group the broker says so when its offsets are committed, after the checkpoint that has them.
        assert topics.read(guarded.bootstrap, job.target) == []


@pytest.mark.parametrize("kind", [KafkaSink, KafkaPlainSink])
@pytest.mark.parametrize("wrong", ["password", "authority", "protocol"])
def test_who_is_not_let_in_is_told_why(guarded, tmp_path, wrong, kind):
    """Kind: two minutes of silence for a typing error, then an error that speaks of timeouts, or shows the password."""
    changes = {
        "password": {"sasl_password": WRONG},
        "authority": {"ssl_ca_location": str(make_authority(tmp_path / "other"))},
        "protocol": {"security_protocol": "SASL_PLAINTEXT"},
    }[wrong]
    words = {"password": "AUTHENTICATION", "authority": "certificate", "protocol": "could not"}[wrong]
    flow = of.Dataflow("refused")
    # The last one looks like a broker that is away.
    timeout_s = 3 if wrong == "protocol" else 240
    sink = kind(guarded.guarded, "t", config=config(guarded, **changes), timeout_s=timeout_s)
    flow.source("in", TestingSource([1])).sink("out", sink)
    guarantee = "exactly_once" if kind is KafkaSink else "at_least_once"
    began_s = time.monotonic()
    with pytest.raises(SinkError, match=words) as caught:
        of.run(flow, tmp_path / "state", guarantee=guarantee)
    assert time.monotonic() - began_s < 60
    assert WRONG not in str(caught.value) and PASSWORD not in str(caught.value)


def test_a_source_that_is_not_let_in_is_told_why(guarded, tmp_path):
    """Kind: the same of a source: an authority that has not signed."""
    settings = config(guarded, ssl_ca_location=str(make_authority(tmp_path / "other")))
    began_s = time.monotonic()
    with pytest.raises(SourceError, match="certificate") as caught:
        KafkaSource(guarded.guarded, "t", config=settings, connect_timeout_s=60).partitions()
    assert time.monotonic() - began_s < 60
    assert PASSWORD not in str(caught.value)
