"""What a look at Kafka finds before a start, and what a dead job has left there."""

import json
import time

import pytest
import topics
from counting_kafka import Job
from lives import Life

from onceflow import Dataflow, run
from onceflow.checks import CheckContext
from onceflow.connectors.kafka import KafkaSink, KafkaSource
from onceflow.connectors.kafka.destination import transactional_id_of
from onceflow.connectors.kafka.facts import TopicFacts
from onceflow.connectors.kafka.inspection import look_at_replicas
from onceflow.connectors.kafka.markers import marker_topic_of
from onceflow.runtime.doctor import diagnosed, resolved
from onceflow.testing import EOF, TestingSource


def looked(sink, job="looked"):
    return [(one.level, f"{one.subject}: {one.text}") for one in sink.check(CheckContext(job, "out"))]


def bad(sink):
    """What is not as it has to be, but for what a cluster of one broker cannot be."""
    alone = ("one replica", "transaction.state.log.replication.factor=1")
    return [each for each in looked(sink) if each[0] != "ok" and not any(text in each[1] for text in alone)]


def test_a_topic_that_can_be_written(kafka):
    """A look that finds fault with what is right, that keeps silent about one replica, or that makes a topic."""
    topic = topics.name("looked")
    topics.create(kafka.bootstrap, topic, 3)
    sink = KafkaSink(kafka.bootstrap, topic)
    assert bad(sink) == []
    told = [text for _, text in looked(sink)]
    assert f"topic {topic!r}: is there: 3 partitions, 1 replicas, takes 1,048,588 bytes a batch" in told
    assert ("warning", f"topic {topic!r}: has one replica: what was committed is gone with the disk of one broker") in (
        looked(sink)
    )
    assert any("is made by the first run" in text for text in told)
    missing = topics.name("missing")
    assert [level for level, _ in bad(KafkaSink(kafka.bootstrap, missing))] == ["error"]
    assert "with 2 partitions" in " ".join(
        text for _, text in looked(KafkaSink(kafka.bootstrap, missing, partitions=2))
    )
    assert missing not in topics.admin(kafka.bootstrap).list_topics(timeout=10).topics
    assert marker_topic_of("looked", "out") not in topics.admin(kafka.bootstrap).list_topics(timeout=10).topics


def test_settings_that_break_the_guarantee(kafka):
    """K14, K18: what stops the job, or loses what was committed, when output is there already."""
    topic = topics.name("compacted")
    topics.create(kafka.bootstrap, topic, cleanup_policy="compact", unclean_leader_election_enable="true")
    assert [level for level, _ in bad(KafkaSink(kafka.bootstrap, topic, key="k"))] == ["warning"]
    errors = bad(KafkaSink(kafka.bootstrap, topic, config={"transaction.timeout.ms": 3_600_000}))
    assert [level for level, _ in errors] == ["error", "error", "warning"]
    assert "transaction.timeout.ms=3600000 is above the broker's transaction.max.timeout.ms=900000" in errors[0][1]
    assert "takes no record without a key" in errors[1][1] and "unclean" in errors[2][1]


def facts(**settings):
    known = {"replicas": 3, "min_insync": 2, "unclean": False}
    rest = {"cleanup": "delete", "max_bytes": 1, "future_ms": 1, "past_ms": 1, "log_append_time": False}
    return TopicFacts(name="t", id="i", partitions=1, **{**known, **rest, **settings})


def test_replicas():
    """Acknowledgements that one broker gives alone, and a topic that stops with one broker."""
    for settings, text in (
        ({}, None),
        ({"replicas": 1, "min_insync": 1}, "one replica"),
        ({"min_insync": 1}, "min.insync.replicas=1"),
        ({"min_insync": 3}, "3 of 3"),
        ({"unclean": True}, "unclean.leader.election"),
    ):
        found = [one.text for one in look_at_replicas(facts(**settings))]
        assert len(found) == (text is not None) and all(text in each for each in found)


def test_a_cluster_that_cannot_be_reached():
    """A look that waits for ever, and a password in what it says."""
    config = {"sasl.mechanism": "PLAIN", "security.protocol": "SASL_PLAINTEXT", "sasl.username": "me"}
    sink = KafkaSink("127.0.0.1:1", "t", config={**config, "sasl.password": "hunter2"}, timeout_s=1)
    flow = Dataflow("looked")
    flow.source("in", TestingSource([1])).sink("out", sink)
    [finding] = flow.check()[1].findings
    assert finding.level == "error" and "127.0.0.1:1" in finding.text and "hunter2" not in finding.text


def test_a_transaction_that_was_left_open(kafka, state):
    """Readers of what is committed that wait for a dead job; or a stranger's transaction that is ended."""
    topic, job = topics.name("left"), topics.name("job")
    topics.create(kafka.bootstrap, topic)
    flow = Dataflow(job)
    flow.source("in", TestingSource([{"n": 1}, {"n": 2}])).sink("out", KafkaSink(kafka.bootstrap, topic))
    assert run(flow, state).finished
    assert diagnosed(flow, state).sinks[0].leftovers == ()
    told = [text for _, text in looked(KafkaSink(kafka.bootstrap, topic), job)]
    assert any("output of this sink up to checkpoint 1" in text for text in told)
    dead = topics.producer(kafka.bootstrap, transactional_id_of(job, "out", 0))
    dead.init_transactions(30)
    dead.begin_transaction()
    dead.produce(topic, b'{"n": 3}')
    dead.flush(30)
    [left] = diagnosed(flow, state).sinks[0].leftovers
    assert left.fate == "removable" and f"open transaction in topic {topic!r}" in left.subject
    done = resolved(flow, state)
    assert done.removable == 1 and not done.failed
    assert diagnosed(flow, state).removable == 0
    stranger = topics.producer(kafka.bootstrap, topics.name("stranger"))
    stranger.init_transactions(30)
    stranger.begin_transaction()
    stranger.produce(topic, b'{"n": 4}')
    stranger.flush(30)
    assert resolved(flow, state).removable == 1
    assert diagnosed(flow, state).removable == 1
    stranger.commit_transaction(30)
    assert run(flow, state).finished
    assert [json.loads(message.value())["n"] for message in topics.read(kafka.bootstrap, topic)] == [1, 2, 4]


def to_topics(job, bootstrap, **sinks):
    """A job with a sink to each topic, by step id."""
    flow = Dataflow(job)
    rows = flow.source("in", TestingSource([{"n": 1}, EOF, {"n": 2}]))
    for step_id, topic in sinks.items():
        rows.sink(step_id, KafkaSink(bootstrap, topic))
    return flow


def test_markers_of_a_sink_that_is_gone(kafka, state):
    """Topics that stay for ever; or that are needed, or another job's, by their markers or by their names, and go."""
    topic, job = topics.name("left"), topics.name("job")
    topics.create(kafka.bootstrap, topic)
    mine, gone, others = marker_topic_of(job, "out"), marker_topic_of(job, "gone"), marker_topic_of(f"{job}-2", "gone")

    def left(state=state):
        return {
            each.subject.split("topic ")[1].split("'")[1]: each for each in diagnosed(flow, state).sinks[0].leftovers
        }

    def there():
        found = topics.admin(kafka.bootstrap).list_topics(timeout=10).topics
        return {name for name in found if name.startswith(f"onceflow-markers-{job}-")}

    flow = to_topics(job, kafka.bootstrap, out=topic)
    assert not run(to_topics(job, kafka.bootstrap, out=topic, gone=topic), state).finished
    run(to_topics(f"{job}-2", kafka.bootstrap, gone=topic), state.with_name("others"))
    # A checkpoint knows the sink.
    assert {name: one.fate for name, one in left().items()} == {gone: "kept"}
    assert "which the dataflow has no more" in left()[gone].text
    assert run(flow, state, on_change={"gone": "drop"}, retain=1).finished
    unmarked = f"onceflow-markers-{job}-unmarked"
    topics.create(kafka.bootstrap, unmarked, cleanup_policy="compact")
    renamed = f"onceflow-markers-{job}-renamed"
    topics.create(kafka.bootstrap, renamed, cleanup_policy="compact")
    [marker] = topics.read(kafka.bootstrap, gone)[-1:]
    writer = topics.producer(kafka.bootstrap, topics.name("writer"))
    writer.init_transactions(30)
    writer.begin_transaction()
    writer.produce(renamed, marker.value(), key=marker.key())
    writer.commit_transaction(30)
    found = left()
    assert {name: each.fate for name, each in found.items()} == {gone: "removable", unmarked: "kept", renamed: "kept"}
    assert "of sink 'gone', which neither the dataflow nor one of its checkpoints has" in found[gone].text
    assert "no marker" in found[unmarked].text and "not of its name" in found[renamed].text
    writer.begin_transaction()
    writer.produce(gone, marker.value(), key=marker.key())
    writer.flush(30)
    assert left()[gone].fate == "kept" and "open transaction" in left()[gone].text
    writer.abort_transaction(30)
    # Another state of a job of that name: the markers are not its own.
    elsewhere, beside = state.with_name("elsewhere"), topics.name("beside")
    topics.create(kafka.bootstrap, beside)
    flow = to_topics(job, kafka.bootstrap, beside=beside)
    run(flow, elsewhere)
    assert gone not in left(elsewhere) and resolved(flow, elsewhere).removable == 0 and gone in there()
    flow = to_topics(job, kafka.bootstrap, out=topic)
    before = there()
    done = resolved(flow, state)
    assert done.removable == 1 and not done.failed
    assert before - there() == {gone} and {mine, others} <= there()
    assert gone not in left()
    found[gone].resolve()
    assert run(flow, state).finished


@pytest.mark.usefixtures("crash_points")
@pytest.mark.parametrize("point", ["kafka.pre_commit:2", "kafka.post_commit:2", "decide.pre:2"])
def test_the_next_run_is_exact(kafka, tmp_path, point):
    """A transaction of decided output that is ended, and whose output is lost or comes twice."""
    job = Job.make(kafka.bootstrap, tmp_path / "job")
    assert Life(job.run, CRASH_AT=point).wait() == "killed"
    flow = Dataflow(job.name)
    sink = KafkaSink(kafka.bootstrap, job.topic(), key="user", partitions=2)
    flow.source("rows", TestingSource([1])).sink("out-0", sink)
    assert (diagnosed(flow, tmp_path / "job" / "state").removable > 0) == (point == "kafka.pre_commit:2")
    assert not resolved(flow, tmp_path / "job" / "state").failed
    assert diagnosed(flow, tmp_path / "job" / "state").removable == 0
    life = Life(job.run)
    assert life.wait() == "done", life.error
    until = time.monotonic() + 30
    while len(job.shown()) < job.rows and time.monotonic() < until:
        # The broker answers a commit before readers of what is committed are told everywhere.
        time.sleep(0.1)
    job.check()


def test_a_topic_that_can_be_read(kafka):
    """A topic that forgets while a job is down, or whose records an open transaction holds back, and nobody is told."""

    def of_source(topic, **settings):
        source = KafkaSource(kafka.bootstrap, topic, **settings)
        found = [(one.level, one.text) for one in source.check(CheckContext("looked", "in"))]
        return [each for each in found if "one replica" not in each[1]]

    assert [level for level, _ in of_source(topics.name("missing"))] == ["ok", "error"]
    topic = topics.name("read")
    topics.create(kafka.bootstrap, topic, 2, retention_ms=-1)
    assert of_source(topic) == [("ok", "can be reached"), ("ok", "can be read: 2 partitions, 1 replicas")]
    short = topics.name("short")
    topics.create(kafka.bootstrap, short, retention_ms=7_200_000, retention_bytes=1000)
    assert "are older than 2 hours or lie beyond 1,000 bytes" in of_source(short)[1][1]
    compacted = topics.name("compacted")
    topics.create(kafka.bootstrap, compacted, cleanup_policy="compact")
    assert "is compacted" in of_source(compacted)[1][1]
    open_one = topics.producer(kafka.bootstrap, topics.name("open"))
    open_one.init_transactions(30)
    open_one.begin_transaction()
    open_one.produce(topic, b"x", partition=1)
    open_one.flush(30)
    assert "an open transaction holds partition 1 back at offset 0" in of_source(topic)[1][1]
    assert len(of_source(topic, isolation="read_uncommitted")) == 2
    open_one.abort_transaction(30)
