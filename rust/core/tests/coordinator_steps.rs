//! The coordinator, transition by transition, and under random events.

use onceflow_core::ErrorKind;
use onceflow_core::checkpoint::{CheckpointCoordinator, Effect, Event, SinkLedger, SinkProgress};
use proptest::prelude::*;

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn coordinator(tasks: &[&str], sinks: &[&str]) -> CheckpointCoordinator {
    CheckpointCoordinator::new(names(tasks), names(sinks), 10.0).unwrap()
}

fn trigger(checkpoint_id: u64, now_s: f64) -> Event {
    Event::Trigger { checkpoint_id, now_s }
}

fn ack(task: &str, checkpoint_id: u64, now_s: f64) -> Event {
    Event::Acknowledge { task: task.to_owned(), checkpoint_id, now_s }
}

fn finished(task: &str) -> Event {
    Event::TaskFinished { task: task.to_owned(), now_s: 0.0 }
}

fn decline(task: &str, checkpoint_id: u64) -> Event {
    Event::Decline { task: task.to_owned(), checkpoint_id, reason: "no".to_owned() }
}

fn failed(task: &str) -> Event {
    Event::TaskFailed { task: task.to_owned(), reason: "no".to_owned() }
}

fn prepared(sink: &str, checkpoint_id: u64) -> Event {
    Event::Prepared { sink: sink.to_owned(), checkpoint_id }
}

fn prepare_failed(sink: &str, checkpoint_id: u64) -> Event {
    Event::PrepareFailed { sink: sink.to_owned(), checkpoint_id, reason: "no".to_owned() }
}

fn decision_failed(checkpoint_id: u64, indefinite: bool) -> Event {
    Event::DecisionFailed { checkpoint_id, reason: "disk".to_owned(), indefinite }
}

fn committed(sink: &str, checkpoint_id: u64) -> Event {
    Event::Committed { sink: sink.to_owned(), checkpoint_id }
}

fn commit_failed(sink: &str, checkpoint_id: u64) -> Event {
    Event::CommitFailed { sink: sink.to_owned(), checkpoint_id, reason: "no".to_owned() }
}

/// The kinds of effects, short: a table of them reads like the protocol.
fn short(effects: &[Effect]) -> Vec<String> {
    effects
        .iter()
        .map(|effect| match effect {
            Effect::InjectBarriers { checkpoint_id } => format!("barrier {checkpoint_id}"),
            Effect::PrepareSinks { checkpoint_id } => format!("prepare {checkpoint_id}"),
            Effect::Decide { checkpoint_id } => format!("decide {checkpoint_id}"),
            Effect::CommitSink { checkpoint_id, sink } => format!("commit {checkpoint_id} {sink}"),
            Effect::Complete { checkpoint_id } => format!("complete {checkpoint_id}"),
            Effect::Abort { checkpoint_id, .. } => format!("abort {checkpoint_id}"),
            Effect::Fail { checkpoint_id, .. } => format!("fail {checkpoint_id}"),
        })
        .collect()
}

/// Steps, each with its effects and the state after it.
fn run(mut coordinator: CheckpointCoordinator, steps: &[(Event, &[&str], &str)]) {
    for (index, (event, effects, state)) in steps.iter().enumerate() {
        let got = coordinator.step(event.clone()).unwrap_or_else(|error| {
            panic!("step {index} {event:?}: {error}");
        });
        assert_eq!(short(&got), *effects, "step {index} {event:?}");
        assert_eq!(coordinator.state(), *state, "step {index} {event:?}");
    }
}

/// An event that must be refused, leaving everything as it was.
fn refused(coordinator: &mut CheckpointCoordinator, event: Event) -> ErrorKind {
    let before = format!("{coordinator:?}");
    let error = coordinator.step(event.clone()).expect_err(&format!("{event:?}"));
    assert_eq!(format!("{coordinator:?}"), before, "{event:?} was refused but changed something");
    error.kind()
}

#[test]
fn from_trigger_to_complete() {
    run(
        coordinator(&["map", "source"], &["files", "log"]),
        &[
            (trigger(3, 0.0), &["barrier 3"], "AwaitingAcknowledgements"),
            (ack("source", 3, 1.0), &[], "AwaitingAcknowledgements"),
            (ack("source", 3, 1.0), &[], "AwaitingAcknowledgements"),
            (ack("map", 3, 2.0), &["prepare 3"], "AwaitingPrepares"),
            (prepared("log", 3), &[], "AwaitingPrepares"),
            (prepared("log", 3), &[], "AwaitingPrepares"),
            (prepared("files", 3), &["decide 3"], "AwaitingDecision"),
            (
                Event::Decided { checkpoint_id: 3 },
                &["commit 3 files", "commit 3 log"],
                "AwaitingSinkCommits",
            ),
            (Event::Decided { checkpoint_id: 3 }, &[], "AwaitingSinkCommits"),
            (committed("files", 3), &[], "AwaitingSinkCommits"),
            (committed("files", 3), &[], "AwaitingSinkCommits"),
            (committed("log", 3), &["complete 3"], "AwaitingTrigger"),
            (committed("log", 3), &[], "AwaitingTrigger"),
            (trigger(7, 5.0), &["barrier 7"], "AwaitingAcknowledgements"),
        ],
    );
}

/// A checkpoint that lacks the part of a lost task must not be decided; one that has it goes on.
#[test]
fn a_lost_task_aborts_what_is_not_whole_and_nothing_else() {
    let late: &[(Event, &[&str], &str)] = &[
        (failed("map"), &["abort 1"], "AwaitingTrigger"),
        (ack("map", 1, 0.0), &[], "AwaitingTrigger"),
        (ack("source", 1, 0.0), &[], "AwaitingTrigger"),
        (failed("source"), &[], "AwaitingTrigger"),
    ];
    let whole: &[(Event, &[&str], &str)] = &[
        (ack("map", 1, 0.0), &[], "AwaitingAcknowledgements"),
        (ack("source", 1, 0.0), &["prepare 1"], "AwaitingPrepares"),
        (failed("map"), &[], "AwaitingPrepares"),
        (prepared("log", 1), &["decide 1"], "AwaitingDecision"),
        (failed("source"), &[], "AwaitingDecision"),
        (Event::Decided { checkpoint_id: 1 }, &["commit 1 log"], "AwaitingSinkCommits"),
        (failed("map"), &[], "AwaitingSinkCommits"),
        (committed("log", 1), &["complete 1"], "AwaitingTrigger"),
    ];
    for steps in [late, whole] {
        let mut subject = coordinator(&["map", "source"], &["log"]);
        subject.step(trigger(1, 0.0)).unwrap();
        run(subject.clone(), steps);
        for (event, _, _) in steps {
            subject.step(event.clone()).unwrap();
        }
        assert_eq!(refused(&mut subject, trigger(2, 0.0)), ErrorKind::CheckpointState);
    }
    assert_eq!(refused(&mut coordinator(&["map"], &[]), failed("sorce")), ErrorKind::UnknownName);
}

#[test]
fn without_sinks_the_decision_completes() {
    run(
        coordinator(&["source"], &[]),
        &[
            (trigger(1, 0.0), &["barrier 1"], "AwaitingAcknowledgements"),
            (ack("source", 1, 1.0), &["decide 1"], "AwaitingDecision"),
            (Event::Decided { checkpoint_id: 1 }, &["complete 1"], "AwaitingTrigger"),
        ],
    );
}

#[test]
fn a_finished_task_counts_as_acknowledged() {
    run(
        coordinator(&["map", "source"], &[]),
        &[
            (trigger(1, 0.0), &["barrier 1"], "AwaitingAcknowledgements"),
            (ack("map", 1, 0.0), &[], "AwaitingAcknowledgements"),
            (finished("source"), &["decide 1"], "AwaitingDecision"),
            (Event::Decided { checkpoint_id: 1 }, &["complete 1"], "AwaitingTrigger"),
            (trigger(2, 0.0), &["barrier 2"], "AwaitingAcknowledgements"),
            (ack("source", 2, 0.0), &[], "AwaitingAcknowledgements"),
            (ack("map", 2, 0.0), &["decide 2"], "AwaitingDecision"),
            (Event::Decided { checkpoint_id: 2 }, &["complete 2"], "AwaitingTrigger"),
            (finished("map"), &[], "AwaitingTrigger"),
            (trigger(3, 0.0), &["decide 3"], "AwaitingDecision"),
        ],
    );
}

/// About a checkpoint that is prepared without the part of a task that still owes it: the end of
/// one task says nothing about the others, and comes twice without harm.
#[test]
fn a_finished_task_does_not_stand_for_the_others() {
    run(
        coordinator(&["map", "source", "window"], &[]),
        &[
            (trigger(1, 0.0), &["barrier 1"], "AwaitingAcknowledgements"),
            (finished("source"), &[], "AwaitingAcknowledgements"),
            (finished("source"), &[], "AwaitingAcknowledgements"),
            (ack("map", 1, 0.0), &[], "AwaitingAcknowledgements"),
            (finished("map"), &[], "AwaitingAcknowledgements"),
            (ack("window", 1, 0.0), &["decide 1"], "AwaitingDecision"),
        ],
    );
}

/// About a job that asks which checkpoint it can go back to: it is the newest that every sink has
/// committed, not one that is decided only, nor one that was aborted since.
#[test]
fn the_last_completed_checkpoint_is_one_that_all_sinks_committed() {
    let mut subject = coordinator(&["map"], &["log"]);
    for (id, before) in [(4, None), (7, Some(4))] {
        for event in [trigger(id, 0.0), ack("map", id, 0.0), prepared("log", id)] {
            subject.step(event).unwrap();
        }
        subject.step(Event::Decided { checkpoint_id: id }).unwrap();
        assert_eq!(subject.last_completed(), before);
        subject.step(committed("log", id)).unwrap();
        assert_eq!(subject.last_completed(), Some(id));
    }
    subject.step(trigger(8, 0.0)).unwrap();
    subject.step(decline("map", 8)).unwrap();
    assert_eq!(subject.last_completed(), Some(7));
}

/// About a refusal that nobody can act on: it names the event, the checkpoint and the state.
#[test]
fn a_refused_event_is_named_with_the_state_that_it_does_not_fit() {
    let text = |subject: &mut CheckpointCoordinator, event: Event| {
        subject.step(event).unwrap_err().to_string()
    };
    let mut subject = coordinator(&["map"], &["log"]);
    subject.step(trigger(4, 0.0)).unwrap();
    let refused: [(Event, &str); 5] = [
        (trigger(5, 0.0), "trigger"),
        (prepared("log", 4), "prepared"),
        (decision_failed(4, true), "decision_failed"),
        (committed("log", 4), "committed"),
        (commit_failed("log", 4), "commit_failed"),
    ];
    for (event, name) in refused {
        let expected = format!("{name} does not fit: checkpoint 4 is AwaitingAcknowledgements");
        assert_eq!(text(&mut subject, event), expected);
    }
    let never = "is about checkpoint 5, which was never triggered; the newest is 4";
    for (event, name) in [
        (ack("map", 5, 0.0), "acknowledge"),
        (decline("map", 5), "decline"),
        (prepare_failed("log", 5), "prepare_failed"),
    ] {
        assert_eq!(text(&mut subject, event), format!("{name} {never}"));
    }
}

#[test]
fn whatever_fails_before_the_decision_aborts() {
    let aborts: &[&[(Event, &[&str], &str)]] = &[
        &[(decline("map", 4), &["abort 4"], "AwaitingTrigger")],
        &[(prepare_failed("log", 4), &["abort 4"], "AwaitingTrigger")],
        &[
            (Event::Tick { now_s: 9.9 }, &[], "AwaitingAcknowledgements"),
            (Event::Tick { now_s: 10.0 }, &["abort 4"], "AwaitingTrigger"),
        ],
        // The acknowledgement that comes after the timeout is late, even before a tick.
        &[(ack("map", 4, 10.0), &["abort 4"], "AwaitingTrigger")],
        &[
            (ack("map", 4, 1.0), &["prepare 4"], "AwaitingPrepares"),
            (decline("map", 4), &["abort 4"], "AwaitingTrigger"),
        ],
        &[
            (ack("map", 4, 1.0), &["prepare 4"], "AwaitingPrepares"),
            (prepare_failed("log", 4), &["abort 4"], "AwaitingTrigger"),
        ],
        &[
            (ack("map", 4, 1.0), &["prepare 4"], "AwaitingPrepares"),
            (Event::Tick { now_s: 11.0 }, &["abort 4"], "AwaitingTrigger"),
        ],
        &[
            (ack("map", 4, 1.0), &["prepare 4"], "AwaitingPrepares"),
            (prepared("log", 4), &["decide 4"], "AwaitingDecision"),
            (decision_failed(4, false), &["abort 4"], "AwaitingTrigger"),
        ],
    ];
    for steps in aborts {
        let mut all = vec![(trigger(4, 0.0), &["barrier 4"][..], "AwaitingAcknowledgements")];
        all.extend(steps.iter().cloned());
        // Late reports of the aborted checkpoint change nothing; the next one is not disturbed.
        for late in [ack("map", 4, 0.0), decline("map", 4), prepared("log", 4)] {
            all.push((late, &[], "AwaitingTrigger"));
        }
        all.push((trigger(5, 0.0), &["barrier 5"], "AwaitingAcknowledgements"));
        for late in [ack("map", 4, 1.0), decline("map", 4), prepare_failed("log", 4)] {
            all.push((late, &[], "AwaitingAcknowledgements"));
        }
        all.push((ack("map", 5, 1.0), &["prepare 5"], "AwaitingPrepares"));
        all.push((prepared("log", 4), &[], "AwaitingPrepares"));
        all.push((prepared("log", 5), &["decide 5"], "AwaitingDecision"));
        run(coordinator(&["map"], &["log"]), &all);
    }
}

fn deciding() -> Vec<(Event, &'static [&'static str], &'static str)> {
    vec![
        (trigger(4, 0.0), &["barrier 4"], "AwaitingAcknowledgements"),
        (ack("map", 4, 1.0), &["prepare 4"], "AwaitingPrepares"),
        (prepared("log", 4), &["decide 4"], "AwaitingDecision"),
    ]
}

#[test]
fn nothing_aborts_once_the_decision_was_asked_for() {
    let mut steps = deciding();
    steps.push((Event::Tick { now_s: 1e9 }, &[], "AwaitingDecision"));
    steps.push((decline("map", 4), &[], "AwaitingDecision"));
    steps.push((Event::Decided { checkpoint_id: 4 }, &["commit 4 log"], "AwaitingSinkCommits"));
    steps.push((Event::Tick { now_s: 2e9 }, &[], "AwaitingSinkCommits"));
    steps.push((decline("map", 4), &[], "AwaitingSinkCommits"));
    steps.push((committed("log", 4), &["complete 4"], "AwaitingTrigger"));
    run(coordinator(&["map"], &["log"]), &steps);
}

#[test]
fn after_the_decision_a_failure_stops_the_job() {
    for (failure, decided) in [(commit_failed("log", 4), true), (decision_failed(4, true), false)] {
        let mut steps = deciding();
        if decided {
            let event = Event::Decided { checkpoint_id: 4 };
            steps.push((event, &["commit 4 log"], "AwaitingSinkCommits"));
        }
        steps.push((failure, &["fail 4"], "AwaitingRecovery"));
        for void in [committed("log", 4), commit_failed("log", 4), decision_failed(4, true)] {
            steps.push((void, &[], "AwaitingRecovery"));
        }
        steps.push((Event::Tick { now_s: 1e9 }, &[], "AwaitingRecovery"));
        let mut coordinator = coordinator(&["map"], &["log"]);
        for (event, effects, state) in steps {
            assert_eq!(short(&coordinator.step(event).unwrap()), effects);
            assert_eq!(coordinator.state(), state);
        }
        assert_eq!(refused(&mut coordinator, trigger(5, 0.0)), ErrorKind::CheckpointState);
        assert_eq!(coordinator.last_completed(), None);
    }
}

#[test]
fn what_no_correct_peer_sends_is_refused() {
    use ErrorKind::{CheckpointState, InvalidArgument, UnknownName};
    let mut subject = coordinator(&["map"], &["log"]);
    assert_eq!(refused(&mut subject, ack("map", 1, 0.0)), CheckpointState, "never triggered");
    assert_eq!(refused(&mut subject, Event::Decided { checkpoint_id: 1 }), CheckpointState);
    subject.step(trigger(4, 0.0)).unwrap();
    assert_eq!(refused(&mut subject, trigger(5, 0.0)), CheckpointState, "one at a time");
    assert_eq!(refused(&mut subject, trigger(4, 0.0)), CheckpointState, "ids grow");
    assert_eq!(refused(&mut subject, ack("nobody", 4, 0.0)), UnknownName);
    assert_eq!(refused(&mut subject, finished("nobody")), UnknownName);
    assert_eq!(refused(&mut subject, prepared("nobody", 4)), UnknownName);
    assert_eq!(refused(&mut subject, ack("map", 5, 0.0)), CheckpointState, "never triggered");
    assert_eq!(refused(&mut subject, ack("map", 4, f64::NAN)), InvalidArgument);
    assert_eq!(refused(&mut subject, prepared("log", 4)), CheckpointState, "not asked yet");
    assert_eq!(refused(&mut subject, committed("log", 4)), CheckpointState);
    assert_eq!(refused(&mut subject, commit_failed("log", 4)), CheckpointState);
    assert_eq!(refused(&mut subject, decision_failed(4, true)), CheckpointState);
    assert_eq!(refused(&mut subject, Event::Decided { checkpoint_id: 4 }), CheckpointState);
    subject.step(ack("map", 4, 0.0)).unwrap();
    subject.step(prepared("log", 4)).unwrap();
    assert_eq!(refused(&mut subject, committed("log", 4)), CheckpointState);
    assert_eq!(refused(&mut subject, prepare_failed("log", 4)), CheckpointState, "it had prepared");
    subject.step(decision_failed(4, false)).unwrap();
    assert_eq!(refused(&mut subject, Event::Decided { checkpoint_id: 4 }), CheckpointState);
    assert_eq!(refused(&mut subject, trigger(4, 0.0)), CheckpointState, "an aborted id");

    let new = |tasks: &[&str], sinks: &[&str], timeout_s| {
        CheckpointCoordinator::new(names(tasks), names(sinks), timeout_s).unwrap_err().kind()
    };
    assert_eq!(new(&[], &[], 1.0), InvalidArgument);
    assert_eq!(new(&["a", "a"], &[], 1.0), InvalidArgument);
    assert_eq!(new(&["a"], &["b", "b"], 1.0), InvalidArgument);
    assert_eq!(new(&["a"], &[], 0.0), InvalidArgument);
    assert_eq!(new(&["a"], &[], f64::NAN), InvalidArgument);
}

#[test]
fn the_ledger_keeps_its_laws() {
    let progress = |ledger: &SinkLedger, sink| ledger.progress(sink).unwrap();
    let mut ledger = SinkLedger::new(names(&["a", "b"])).unwrap();
    ledger.prepare("a", 1).unwrap();
    assert_eq!(ledger.decide(1).unwrap_err().kind(), ErrorKind::CheckpointState, "b is missing");
    assert_eq!(ledger.prepare("a", 2).unwrap_err().kind(), ErrorKind::CheckpointState);
    ledger.prepare("b", 1).unwrap();
    ledger.abort(1).unwrap();
    assert_eq!(progress(&ledger, "a"), SinkProgress::default());
    ledger.prepare("a", 2).unwrap();
    ledger.prepare("b", 2).unwrap();
    assert_eq!(ledger.commit("a", 2).unwrap_err().kind(), ErrorKind::CheckpointState, "undecided");
    ledger.decide(2).unwrap();
    ledger.decide(2).unwrap();
    assert_eq!(ledger.abort(2).unwrap_err().kind(), ErrorKind::CheckpointState, "decided");
    assert_eq!(ledger.decide(1).unwrap_err().kind(), ErrorKind::CheckpointState);
    ledger.commit("a", 2).unwrap();
    assert_eq!(ledger.uncommitted().collect::<Vec<_>>(), ["b"]);
    assert_eq!(ledger.prepare("a", 3).unwrap_err().kind(), ErrorKind::CheckpointState, "b lags");
    ledger.commit("b", 2).unwrap();
    ledger.prepare("a", 3).unwrap();
    ledger.abort(3).unwrap();
    let done = SinkProgress { prepared: Some(2), decided: Some(2), committed: Some(2) };
    assert_eq!(progress(&ledger, "a"), done, "the abort of 3 left 2 alone");
    assert_eq!(ledger.progress("c").unwrap_err().kind(), ErrorKind::UnknownName);
}

/// About ids going backwards where no sink stands in the way, and about a decision that is reported
/// once more when all is done.
#[test]
fn the_newest_decision_is_remembered() {
    let mut ledger = SinkLedger::new(names(&[])).unwrap();
    assert_eq!(ledger.decided(), None);
    ledger.decide(2).unwrap();
    assert_eq!(ledger.decide(1).unwrap_err().kind(), ErrorKind::CheckpointState);
    assert_eq!(ledger.decided(), Some(2));
    ledger.decide(3).unwrap();
    assert_eq!(ledger.decided(), Some(3));

    let mut subject = coordinator(&["map"], &[]);
    let decided = Event::Decided { checkpoint_id: 4 };
    for event in [trigger(4, 0.0), ack("map", 4, 0.0), decided.clone()] {
        subject.step(event).unwrap();
    }
    assert_eq!(subject.step(decided).unwrap(), [], "it is over, and was decided");
    let other = Event::Decided { checkpoint_id: 3 };
    assert_eq!(refused(&mut subject, other), ErrorKind::CheckpointState);
}

/// Any event about a few tasks, sinks and ids; times that go back and forth.
fn event() -> impl Strategy<Value = Event> {
    let task = prop::sample::select(vec!["map", "source"]);
    let sink = prop::sample::select(vec!["files", "log"]);
    let id = 1..12_u64;
    let now_s = 0..40_u32;
    prop_oneof![
        3 => (id.clone(), now_s.clone()).prop_map(|(id, now)| trigger(id, f64::from(now))),
        6 => (task.clone(), id.clone(), now_s.clone())
            .prop_map(|(task, id, now)| ack(task, id, f64::from(now))),
        1 => (task.clone(), id.clone()).prop_map(|(task, id)| decline(task, id)),
        1 => task.clone().prop_map(finished),
        1 => task.prop_map(failed),
        6 => (sink.clone(), id.clone()).prop_map(|(sink, id)| prepared(sink, id)),
        1 => (sink.clone(), id.clone()).prop_map(|(sink, id)| prepare_failed(sink, id)),
        6 => id.clone().prop_map(|checkpoint_id| Event::Decided { checkpoint_id }),
        1 => (id.clone(), any::<bool>()).prop_map(|(id, indefinite)| decision_failed(id, indefinite)),
        6 => (sink.clone(), id.clone()).prop_map(|(sink, id)| committed(sink, id)),
        1 => (sink, id).prop_map(|(sink, id)| commit_failed(sink, id)),
        1 => now_s.prop_map(|now| Event::Tick { now_s: f64::from(now) }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever comes: of one id at most one end, no abort of what was decided, no commit of
    /// what was not, one checkpoint at a time, and a refused event changes nothing.
    #[test]
    fn random_events_keep_the_laws(events in prop::collection::vec(event(), 0..120)) {
        let mut subject = coordinator(&["map", "source"], &["files", "log"]);
        let mut ended = std::collections::BTreeSet::new();
        let mut decided = std::collections::BTreeSet::new();
        let mut open = None;
        // Blind ids hit the checkpoint under way too rarely: aim every other event at it.
        for (index, event) in events.into_iter().enumerate() {
            let event = match (subject.checkpoint_id(), index % 2) {
                (Some(id), 0) => aimed(event, id),
                _ => event,
            };
            let before = format!("{subject:?}");
            let awaited_decision = subject.state() == "AwaitingDecision";
            let Ok(effects) = subject.step(event.clone()) else {
                prop_assert_eq!(format!("{:?}", subject), before);
                continue;
            };
            if let Event::Decided { checkpoint_id } = event
                && awaited_decision
            {
                decided.insert(checkpoint_id);
            }
            for effect in effects {
                match effect {
                    Effect::InjectBarriers { checkpoint_id } => {
                        prop_assert_eq!(open.replace(checkpoint_id), None);
                    }
                    Effect::PrepareSinks { checkpoint_id } => open = Some(checkpoint_id),
                    Effect::Decide { checkpoint_id } => {
                        prop_assert_eq!(open, Some(checkpoint_id));
                    }
                    Effect::CommitSink { checkpoint_id, .. } => {
                        prop_assert!(decided.contains(&checkpoint_id));
                    }
                    Effect::Complete { checkpoint_id } => {
                        prop_assert!(decided.contains(&checkpoint_id));
                        prop_assert!(ended.insert(checkpoint_id));
                        open = None;
                    }
                    Effect::Abort { checkpoint_id, .. } => {
                        prop_assert!(!decided.contains(&checkpoint_id));
                        prop_assert!(ended.insert(checkpoint_id));
                        open = None;
                    }
                    Effect::Fail { checkpoint_id, .. } => {
                        prop_assert!(ended.insert(checkpoint_id));
                    }
                }
            }
        }
    }
}

fn aimed(event: Event, id: u64) -> Event {
    match event {
        Event::Acknowledge { task, now_s, .. } => {
            Event::Acknowledge { task, checkpoint_id: id, now_s }
        }
        Event::Prepared { sink, .. } => Event::Prepared { sink, checkpoint_id: id },
        Event::Decided { .. } => Event::Decided { checkpoint_id: id },
        Event::DecisionFailed { reason, indefinite, .. } => {
            Event::DecisionFailed { checkpoint_id: id, reason, indefinite }
        }
        Event::Committed { sink, .. } => Event::Committed { sink, checkpoint_id: id },
        other => other,
    }
}
