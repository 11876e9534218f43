"""A job whose state was put back from an older copy, while the topic has gone on."""

from __future__ import annotations

import re
import shutil

import pytest
import topics
from counting_kafka import Job
from lives import Life

from onceflow.exceptions import RepeatedOutputWarning

pytestmark = pytest.mark.usefixtures("crash_points", "in_turn")


def test_an_older_state_is_refused_until_it_is_meant(kafka, tmp_path):
    """Kind (Q4, Q12): output that is written a second time without a word; advice that is refused when followed."""
    job = Job.make(kafka.bootstrap, tmp_path / "job")
    # Slowly, so that it is not through by then.
    assert Life(lambda: job.run(pace_s=0.3), CRASH_AT="sink.post_commit:2").wait() == "killed"
    copy = tmp_path / "copy"
    shutil.copytree(job.root / "state", copy)
    before = job.shown()
    assert 0 < len(before) < job.rows
    whole = Life(job.run)
    assert whole.wait() == "done", whole.error
    job.check()
    shutil.rmtree(job.root / "state")
    shutil.copytree(copy, job.root / "state")
    for _ in range(3):
        refused = Life(job.run)
        assert refused.wait() == "SinkError", refused.error
        assert "holds the output of checkpoint" in refused.error
    advice = re.search(r"resume_from=(\d+)", refused.error)
    assert advice is not None
    number = int(advice[1])

    def tells_once():
        with pytest.warns(RepeatedOutputWarning) as told:
            job.run(resume_from=number, tells=True)
        texts = [str(each.message) for each in told]
        assert len(texts) == len(set(texts)), texts

    meant = Life(tells_once)
    assert meant.wait() == "done", meant.error
    shown = job.shown()
    # What came after the checkpoint stays, and is written again; nothing is lost, and nothing before it is repeated.
    assert len(set(shown)) == job.rows
    assert all(shown.count(record) == 1 for record in before)
    assert all(shown.count(record) == 2 for record in set(shown) - set(before))
    # Once more: the new timeline is the job's now.
    again = Life(job.run)
    assert again.wait() == "done", again.error
    assert job.shown() == shown


def test_all_of_it_is_written_again_on_purpose(kafka, tmp_path):
    """Kind (Q12): a way to start over that the error names, and that does not work."""
    job = Job.make(kafka.bootstrap, tmp_path / "job")
    first = Life(job.run)
    assert first.wait() == "done", first.error
    shutil.rmtree(job.root / "state")
    refused = Life(job.run)
    assert refused.wait() == "SinkError"
    named = re.search(r"or only the topic '(onceflow-markers-[^']+)'", refused.error)
    assert named is not None, refused.error
    topics.delete(kafka.bootstrap, named[1])
    second = Life(job.run)
    assert second.wait() == "done", second.error
    assert sorted(job.shown()) == sorted(2 * list(set(job.shown())))


def test_two_copies_of_a_state_lose_nothing(kafka, tmp_path):
    """Kind (Q4, Q14): what one copy has decided passes for written, because another one has written an output of the
    same number."""
    job = Job.make(kafka.bootstrap, tmp_path / "job")
    assert Life(lambda: job.run(pace_s=0.3), CRASH_AT="sink.post_commit:1").wait() == "killed"
    before = job.shown()
    assert before
    states = {name: tmp_path / name for name in "as"}
    shutil.copytree(job.root / "state", states["a"])
    assert Life(lambda: job.run(pace_s=0.3), CRASH_AT="sink.pre_commit:1").wait() == "killed"
    assert job.shown() == before
    shutil.move(job.root / "state", states["s"])

    def life(name, resume_from="newest", **crash):
        """One life with a copy of the state."""
        shutil.move(states[name], job.root / "state")
        made = Life(lambda: job.run(resume_from=resume_from, pace_s=0.3 if crash else 0.0), **crash)
        made.wait()
        shutil.move(job.root / "state", states[name])
        return made

    refused = life("a")
    assert "written by another copy of the state" in refused.error
    advised = int(re.search(r"resume_from=(\d+)", refused.error)[1])
    assert life("a", advised, CRASH_AT="sink.post_commit:1").end == "killed"
    of_a = job.shown()
    assert len(of_a) > len(before)
    refused = life("s")
    assert "of lineage" in refused.error
    advised = int(re.search(r"resume_from=(\d+)", refused.error)[1])
    assert life("s", advised).end == "done"
    shown = job.shown()
    assert len(set(shown)) == job.rows
    # S has written all that it had decided, beside what A has made of the same input.
    assert {record for record in shown if shown.count(record) > 1} == set(of_a) - set(before)
