"""What counts as an anomaly and what does not, case by case."""

from __future__ import annotations

import pytest
from script import FAILED, INDEFINITE, OK, Script

from onceflow.testing.histories import AnomalyKind, HistoryError

K = AnomalyKind
CASES = []


def case(**found):
    """The history that a function writes shows just this; ``kafka`` says what it shows where commits are not atomic."""
    kafka = found.pop("kafka", found)

    def register(write):
        CASES.append(pytest.param(write, found, kafka, id=write.__name__))
        return write

    return register


# Sends outside transactions


@case()
def an_acknowledged_record_that_nobody_came_to_is_not_lost(s):
    s.send("p", "a", 0)
    s.send("p", "b", 1)
    s.assign("r")
    s.poll("r", (0, "a"))


@case(LOST_WRITE=1)
def an_acknowledged_record_that_a_reader_went_past_is_lost(s):
    s.send("p", "a", 0)
    s.send("p", "b", 1)
    s.assign("r")
    s.poll("r", (1, "b"))


@case(LOST_WRITE=1)
def an_acknowledged_record_at_the_end_is_lost_when_a_reader_comes_to_that_end(s):
    s.send("p", "a", 0)
    s.assign("r")
    s.poll("r", end=1)


@case(LOST_WRITE=1)
def an_acknowledged_record_of_unknown_offset_is_lost_when_a_reader_comes_to_the_end(s):
    s.assign("r")
    s.send("p", "a")
    s.poll("r", end=0)


@case()
def the_end_must_have_been_found_after_the_acknowledgement(s):
    s.assign("r")
    s.poll("r", end=0)
    s.send("p", "a")


@case()
def a_reader_that_began_later_and_behind_proves_nothing(s):
    s.send("p", "a")
    s.assign("r", 5)
    s.poll("r", end=5)


@case()
def a_reader_that_seeks_past_a_record_proves_nothing(s):
    s.send("p", "a", 0)
    s.send("p", "b", 1)
    s.assign("r")
    s.seek("r", 1)
    s.poll("r", (1, "b"))


@case()
def a_reader_that_begins_anywhere_proves_nothing_of_what_is_before(s):
    s.send("p", "a", 0)
    s.send("p", "b", 1)
    s.assign("r", None)
    s.poll("r", (1, "b"))


@case()
def an_indefinite_send_may_show(s):
    s.send("p", "a", outcome=INDEFINITE)
    s.assign("r")
    s.poll("r", (0, "a"), end=1)


@case()
def an_indefinite_send_may_be_missing(s):
    s.send("p", "a", outcome=INDEFINITE)
    s.send("p", "b", outcome=None)
    s.assign("r")
    s.poll("r", end=0)


@case(EXTERNAL_SKIPPED_POLL=1)
def an_indefinite_send_that_was_shown_once_must_show_always(s):
    s.send("p", "a", outcome=INDEFINITE)
    s.send("p", "b", 1)
    s.assign("r")
    s.poll("r", (0, "a"), (1, "b"))
    s.assign("q")
    s.poll("q", (1, "b"))


@case(ABORTED_READ=1)
def a_refused_send_may_not_show(s):
    s.send("p", "a", outcome=FAILED)
    s.assign("r")
    s.poll("r", (0, "a"), uncommitted=True)


@case(UNKNOWN_VALUE=1)
def a_record_that_nobody_sent(s):
    s.poll("r", (0, "a"))


@case(INCONSISTENT_OFFSETS=1)
def an_acknowledgement_and_a_poll_contradict_each_other(s):
    s.send("p", "a", 0)
    s.send("p", "b")
    s.poll("r", (0, "b"))


@case(INCONSISTENT_OFFSETS=1)
def two_polls_contradict_each_other(s):
    s.send("p", "a", outcome=INDEFINITE)
    s.send("p", "b", outcome=INDEFINITE)
    s.poll("r", (0, "a"))
    s.poll("q", (0, "b"))


@case(INCONSISTENT_OFFSETS=1)
def a_record_in_another_partition_than_it_was_sent_to(s):
    s.send("p", "a", outcome=INDEFINITE, partition=0)
    s.poll("r", (0, "a"), partition=1)


@case(DUPLICATE=1)
def a_record_at_two_offsets(s):
    s.send("p", "a", 0)
    s.poll("r", (0, "a"), (1, "a"))
    s.poll("q", (0, "a"), (1, "a"))


@case(DUPLICATE=1)
def a_record_elsewhere_than_acknowledged(s):
    s.send("p", "a", 0)
    s.poll("r", (1, "a"))


@case(DUPLICATE=1)
def a_record_in_another_partition_than_acknowledged(s):
    s.send("p", "a", 0)
    s.poll("r", (0, "a"), partition=1)


@case(NONMONOTONIC_SEND=1)
def records_of_a_client_in_another_order(s):
    s.send("p", "a", 1)
    s.send("p", "b", 0)


# Readers


@case(DUPLICATE=1)
def a_record_given_twice(s):
    s.send("p", "a", 0)
    s.poll("r", (0, "a"))
    s.poll("r", (0, "a"))


@case()
def a_record_given_again_after_a_seek(s):
    s.send("p", "a", 0)
    s.poll("r", (0, "a"))
    s.seek("r", 0)
    s.poll("r", (0, "a"))


@case()
def a_record_given_to_two_readers(s):
    s.send("p", "a", 0)
    s.poll("r", (0, "a"))
    s.poll("q", (0, "a"))


@case()
def a_rebalance_keeps_the_other_partitions(s):
    s.send("p", "a", 0)
    s.send("p", "b", 0, partition=1)
    s.send("p", "c", 1)
    s.rebalance("r", assigned=[(0, 0), (1, 0)])
    s.poll("r", (0, "a"))
    s.poll("r", (0, "b"), partition=1)
    s.rebalance("r", revoked=[1])
    s.poll("r", (1, "c"))
    s.rebalance("r", assigned=[(1, 0)])
    s.poll("r", (0, "b"), partition=1)


@case(EXTERNAL_SKIPPED_POLL=1)
def a_rebalance_excuses_only_what_it_moves(s):
    for offset, value in enumerate("abc"):
        s.send("p", value, offset)
    s.rebalance("r", assigned=[(0, 0), (1, 0)])
    s.poll("r", (0, "a"))
    s.rebalance("r", revoked=[1])
    s.poll("r", (2, "c"))
    s.poll("q", (0, "a"), (1, "b"), (2, "c"))


@case(EXTERNAL_SKIPPED_POLL=1)
def a_gap_between_the_assigned_position_and_the_first_record(s):
    s.send("p", "a", 0)
    s.send("p", "b", 1)
    s.poll("q", (0, "a"))
    s.assign("r")
    s.poll("r", (1, "b"))


@case(INTERNAL_SKIPPED_POLL=1)
def a_gap_between_polls_of_one_transaction_is_internal(s):
    for offset, value in enumerate("abc"):
        s.send("p", value, offset)
    s.poll("q", (0, "a"), (1, "b"), (2, "c"))
    s.begin("r", "x")
    s.poll("r", (0, "a"))
    s.poll("r", (2, "c"))
    s.commit("r", "x")


@case(INTERNAL_NONMONOTONIC_POLL=1)
def a_late_record_within_a_transaction_is_internal(s):
    for offset, value in enumerate("abc"):
        s.send("p", value, offset)
    s.begin("r", "x")
    s.poll("r", (0, "a"), (2, "c"))
    s.poll("r", (1, "b"))
    s.commit("r", "x")


@case(EXTERNAL_NONMONOTONIC_POLL=1)
def a_record_from_before_the_assigned_position(s):
    s.send("p", "a", 0)
    s.send("p", "b", 1)
    s.assign("r", 1)
    s.poll("r", (0, "a"), (1, "b"))


@case()
def offsets_without_records_are_no_gap(s):
    s.send("p", "a", 0)
    s.send("p", "b", 7)
    s.assign("r")
    s.poll("r", (0, "a"), (7, "b"), end=9)
    s.poll("r", end=9)


# Transactions


@case()
def committed_aborted_and_open_ones_as_they_should_be(s):
    for name, end in [("x", s.commit), ("y", s.abort), ("z", None)]:
        s.begin(name, name)
        s.stage(name, name, f"{name}1", f"{name}2")
        if end:
            end(name, name)
    s.assign("r")
    s.poll("r", (0, "x1"), (1, "x2"), end=5)


@case(LOST_WRITE=2)
def a_committed_transaction_of_which_nothing_shows(s):
    s.begin("p", "x")
    s.stage("p", "x", "a", "b")
    s.commit("p", "x")
    s.assign("r")
    s.poll("r", end=0)


@case()
def an_indefinite_commit_may_show(s):
    s.begin("p", "x")
    s.stage("p", "x", "a", "b")
    s.commit("p", "x", outcome=None)
    s.assign("r")
    s.poll("r", (0, "a"), (1, "b"), end=2)


@case()
def an_indefinite_commit_may_be_missing(s):
    s.begin("p", "x")
    s.stage("p", "x", "a", "b")
    s.commit("p", "x", INDEFINITE)
    s.assign("r")
    s.poll("r", end=0)


@case(TORN_TRANSACTION=1)
def an_indefinite_commit_may_not_show_in_part(s):
    s.begin("p", "x")
    s.stage("p", "x", "a")
    s.stage("p", "x", "b", partition=1)
    s.commit("p", "x", outcome=None)
    s.assign("r")
    s.poll("r", (0, "a"), end=1)
    s.assign("q", partition=1)
    s.poll("q", end=0, partition=1)


@case()
def part_of_a_transaction_may_be_unread(s):
    s.begin("p", "x")
    s.stage("p", "x", "a")
    s.stage("p", "x", "b", partition=1)
    s.commit("p", "x")
    s.assign("r")
    s.poll("r", (0, "a"), end=1)


@case(TORN_TRANSACTION=1, kafka={})
def records_of_a_transaction_that_appear_one_after_the_other(s):
    s.assign("q", partition=1)
    s.begin("p", "x")
    s.stage("p", "x", "a")
    s.stage("p", "x", "b", partition=1)
    s.commit("p", "x")
    s.poll("r", (0, "a"))
    s.poll("q", end=0, partition=1)
    s.poll("q", (0, "b"), partition=1)


@case(PRECOMMITTED_READ=1)
def shown_before_the_commit(s):
    s.begin("p", "x")
    s.stage("p", "x", "a")
    s.poll("r", (0, "a"))
    s.commit("p", "x")


@case()
def shown_to_read_uncommitted_before_the_commit(s):
    s.begin("p", "x")
    s.stage("p", "x", "a")
    s.poll("r", (0, "a"), uncommitted=True)
    s.abort("p", "x")


@case()
def shown_before_the_commit_has_answered(s):
    s.begin("p", "x")
    s.stage("p", "x", "a")
    s.commit("p", "x", outcome=None)
    s.poll("r", (0, "a"))


@case(PRECOMMITTED_READ=1)
def shown_of_a_killed_client_that_never_asked_for_the_commit(s):
    s.begin("p", "x")
    s.stage("p", "x", "a")
    s.poll("r", (0, "a"))


@case(PRECOMMITTED_READ=1)
def shown_before_an_indefinite_commit(s):
    s.begin("p", "x")
    s.stage("p", "x", "a")
    s.poll("r", (0, "a"))
    s.commit("p", "x", INDEFINITE)


@case(PRECOMMITTED_READ=1)
def shown_after_an_indefinite_commit_that_then_proves_to_have_been_aborted(s):
    s.begin("p", "x")
    s.stage("p", "x", "a")
    s.commit("p", "x", INDEFINITE)
    s.poll("r", (0, "a"))
    s.abort("p", "x")


@case(ABORTED_READ=1)
def shown_after_the_abort(s):
    s.begin("p", "x")
    s.stage("p", "x", "a", "b")
    s.abort("p", "x")
    s.poll("r", (0, "a"), (1, "b"))


@case(ABORTED_READ=1)
def shown_after_a_refused_commit(s):
    s.begin("p", "x")
    s.stage("p", "x", "a")
    s.commit("p", "x", FAILED)
    s.poll("r", (0, "a"))


@case()
def a_refused_commit_may_be_repeated(s):
    s.begin("p", "x")
    s.stage("p", "x", "a")
    s.commit("p", "x", FAILED)
    s.commit("p", "x", OK)
    s.poll("r", (0, "a"))


@case()
def a_commit_that_is_refused_after_an_indefinite_one_proves_nothing(s):
    s.begin("p", "x")
    s.stage("p", "x", "a")
    s.commit("p", "x", INDEFINITE)
    s.commit("p", "x", FAILED)
    s.poll("r", (0, "a"))


@case()
def an_aborted_record_that_one_reader_sees_need_not_show_to_others_uncommitted(s):
    s.begin("p", "x")
    s.send("p", "a", 0, transaction="x")
    s.abort("p", "x")
    s.send("p", "b", 2)
    s.assign("r")
    s.poll("r", (0, "a"), (2, "b"), uncommitted=True)
    s.assign("q")
    s.poll("q", (2, "b"))


@case(ABORTED_READ=1)
def an_aborted_record_that_one_reader_was_shown_need_not_be_shown_to_others(s):
    s.begin("p", "x")
    s.stage("p", "x", "a")
    s.abort("p", "x")
    s.send("p", "b", 1)
    s.assign("r")
    s.poll("r", (0, "a"), (1, "b"))
    s.assign("q")
    s.poll("q", (1, "b"))


@case(PRECOMMITTED_READ=1)
def a_transaction_that_was_shown_too_early_is_not_called_torn_as_well(s):
    s.assign("q", partition=1)
    s.begin("p", "x")
    s.stage("p", "x", "a", "b")
    s.stage("p", "x", "c", partition=1)
    s.poll("r", (0, "a"))
    s.commit("p", "x")
    s.poll("r", (1, "b"))
    s.poll("q", end=0, partition=1)
    s.poll("q", (0, "c"), partition=1)


@case(INCONSISTENT_OFFSETS=1)
def an_offset_of_two_values_says_nothing_of_the_order_of_transactions(s):
    for name in "xy":
        s.begin(name, name)
    s.stage("x", "x", "x1", "x2")
    s.stage("y", "y", "y1")
    for name in "xy":
        s.commit(name, name)
    s.send("p", "z", outcome=INDEFINITE)
    s.poll("r", (0, "x1"), (1, "y1"), (2, "x2"))
    s.poll("q", (2, "z"))


@case(CIRCULAR_INFORMATION_FLOW=1, kafka={})
def mixed_records_of_two_transactions(s):
    for name in "xy":
        s.begin(name, name)
    s.stage("x", "x", "x1", "x2")
    s.stage("y", "y", "y1")
    for name in "xy":
        s.commit(name, name)
    s.assign("r")
    s.poll("r", (0, "x1"), (1, "y1"), (2, "x2"))


@case(CIRCULAR_INFORMATION_FLOW=1, PRECOMMITTED_READ=1)
def transactions_that_read_each_other(s):
    for name in "xy":
        s.begin(name, name)
    s.stage("x", "x", "x1")
    s.stage("y", "y", "y1", partition=1)
    s.poll("y", (0, "x1"))
    s.commit("y", "y")
    s.poll("x", (0, "y1"), partition=1)
    s.commit("x", "x")


# Positions of groups


@case()
def a_group_resumes_where_it_committed(s):
    s.begin("p", "x")
    s.offsets("p", "g", 5, name="x")
    s.commit("p", "x")
    s.assign("r", 5, group="g")


@case(STALE_POSITION=1)
def a_group_resumes_before_what_it_committed(s):
    s.begin("p", "x")
    s.offsets("p", "g", 5, name="x")
    s.commit("p", "x")
    s.assign("r", 0, group="g")


@case(STALE_POSITION=1)
def a_group_resumes_from_what_was_replaced(s):
    s.offsets("p", "g", 5)
    s.offsets("p", "g", 9)
    s.assign("r", 5, group="g")


@case(STALE_POSITION=1)
def a_group_resumes_from_an_aborted_position(s):
    s.offsets("p", "g", 2)
    s.begin("p", "x")
    s.offsets("p", "g", 5, name="x")
    s.abort("p", "x")
    s.assign("r", 5, group="g")


@case()
def a_group_may_resume_from_an_indefinite_position_or_the_one_before(s):
    s.offsets("p", "g", 5)
    s.begin("p", "x")
    s.offsets("p", "g", 9, name="x")
    s.commit("p", "x", outcome=None)
    s.assign("r", 5, group="g")
    s.assign("q", 9, group="g")


@case()
def a_group_that_has_committed_nothing_begins_anywhere(s):
    s.begin("p", "x")
    s.offsets("p", "g", 0, name="x")
    s.abort("p", "x")
    s.assign("r", 0, group="g")


@case()
def a_group_may_resume_from_either_of_two_positions_committed_at_the_same_time(s):
    first = s.offsets("p", "g", 5, outcome=None)
    second = s.offsets("q", "g", 9, outcome=None)
    s.answer("q", second)
    s.answer("p", first)
    s.assign("r", 5, group="g")


@case()
def another_group_has_positions_of_its_own(s):
    s.offsets("p", "g", 5)
    s.assign("r", 0, group="h")


def _counts(found):
    return {K[name]: number for name, number in found.items()}


@pytest.mark.parametrize(("write", "found", "kafka"), CASES)
def test_case(write, found, kafka):
    script = Script()
    write(script)
    assert script.kinds(atomic=True) == _counts(found), str(script.check(atomic=True))
    assert script.kinds(atomic=False) == _counts(kafka), str(script.check(atomic=False))


def test_the_evidence_reads_as_a_story():
    s = Script()
    s.begin("producer", "x")
    s.stage("producer", "x", "a")
    s.abort("producer", "x")
    s.poll("reader", (0, "a"))
    report = s.check()
    assert str(report).splitlines() == [
        "5 operations: 1 records sent, 0 acknowledged (0 of them unseen), 1 read; "
        "transactions: 0 committed, 1 aborted, 0 indefinite, 0 abandoned",
        "1 aborted read",
        "ABORTED READ: reader (read_committed) was shown 1 record(s) of transaction x, which was aborted: 'a' (t/0@0)",
        "    producer#1 at 0.002000 s: sends 'a' to t/0 in transaction x",
        "    reader#0 at 0.005000 s: polled t/0@0='a'",
        "    producer#0 at 0.001000 s: began transaction x",
        "    producer#2 at 0.003000 s: aborts transaction x",
    ]
    with pytest.raises(AssertionError, match="ABORTED READ"):
        report.raise_anomalies()


def test_counts_tell_what_was_not_read():
    s = Script()
    s.send("p", "a", 0)
    s.send("p", "b", 1)
    s.send("p", "c", outcome=INDEFINITE)
    s.poll("r", (0, "a"))
    report = s.check()
    assert (report.sent, report.acknowledged, report.unseen, report.read) == (3, 2, 1, 1)


def test_a_value_that_is_sent_twice_is_refused():
    s = Script()
    s.send("p", "a", 0)
    s.send("q", "a", 1)
    with pytest.raises(HistoryError, match=r"sent only once.*p#0.*q#0"):
        s.check()


def test_an_answer_without_a_call_is_refused():
    s = Script()
    s.send("p", "a", 0)
    s.operations.append(type(s.operations[1])(client="p", index=2, at_ns=9_000_000, call=0, outcome=OK))
    with pytest.raises(HistoryError, match="no such call"):
        s.check()


def test_a_transaction_that_never_began_is_refused():
    s = Script()
    s.stage("p", "x", "a")
    with pytest.raises(HistoryError, match="never began"):
        s.check()


def test_operations_that_are_missing_are_refused():
    s = Script()
    s.send("p", "a", 0)
    s.send("p", "b", 1)
    del s.operations[1]
    with pytest.raises(HistoryError, match=r"p#0.*p#2"):
        s.check()
