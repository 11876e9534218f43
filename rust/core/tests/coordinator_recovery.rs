//! Recovery plans: a table, and a model that crashes anywhere and must come out exact.
//!
//! The model is a job in small: a source list, a state that folds it, an output for each input
//! that depends on the whole state, sinks that apply staged outputs under a marker. Only two
//! things survive a crash: decision records (whose state, or whole record, may be damaged) and
//! the sinks' contents. Whatever happens, each sink must end with exactly the outputs of an
//! undisturbed run, or the plan must have said `Stop`.

use std::collections::{BTreeMap, VecDeque};

use onceflow_core::ErrorKind;
use onceflow_core::checkpoint::{
    CheckpointCoordinator, Effect, Event, RecoveryFacts, RecoveryPlan, recovery_plan,
};
use proptest::prelude::*;

// ---- the table ---------------------------------------------------------------------------

fn facts(
    restored: Option<u64>,
    decided_after: &[u64],
    unreadable: &[u64],
    applied: &[Option<u64>],
    replayable_to_position: bool,
) -> RecoveryFacts {
    RecoveryFacts {
        restored,
        decided_after: decided_after.to_vec(),
        unreadable: unreadable.to_vec(),
        applied: applied
            .iter()
            .enumerate()
            .map(|(number, applied)| (format!("sink-{number}"), *applied))
            .collect(),
        replayable_to_position,
    }
}

fn resume(roll_forward: &[u64], abort: &[u64]) -> RecoveryPlan {
    RecoveryPlan::Resume { roll_forward: roll_forward.to_vec(), abort: abort.to_vec() }
}

fn replay(roll_forward: &[u64], abort: &[u64], until: u64) -> RecoveryPlan {
    let (roll_forward, abort) = (roll_forward.to_vec(), abort.to_vec());
    RecoveryPlan::ReplaySuppressed { roll_forward, abort, until }
}

#[test]
fn plans() {
    let cases = [
        ("a fresh job", facts(None, &[], &[], &[Some(0)], false), resume(&[], &[])),
        ("a fresh job without sinks", facts(None, &[], &[], &[], false), resume(&[], &[])),
        (
            "a fresh job, a sink that cannot tell",
            facts(None, &[], &[], &[None], false),
            resume(&[], &[]),
        ),
        ("all applied", facts(Some(5), &[], &[], &[Some(5), Some(5)], false), resume(&[], &[])),
        ("one lags", facts(Some(5), &[], &[], &[Some(5), Some(3)], false), resume(&[5], &[])),
        ("one cannot tell", facts(Some(5), &[], &[], &[Some(5), None], false), resume(&[5], &[])),
        ("one is new", facts(Some(1), &[], &[], &[Some(0)], false), resume(&[1], &[])),
        // Newest damaged, provably applied nowhere: given up, replayable or not.
        ("fall back", facts(Some(5), &[6], &[], &[Some(5), Some(5)], false), resume(&[], &[6])),
        ("fall back, replayable", facts(Some(5), &[6], &[], &[Some(5)], true), resume(&[], &[6])),
        (
            "fall back over several",
            facts(Some(5), &[8, 6], &[7], &[Some(4)], false),
            resume(&[5], &[6, 7, 8]),
        ),
        ("fall back without sinks", facts(Some(5), &[6], &[7], &[], false), resume(&[], &[6, 7])),
        ("fall back to nothing", facts(None, &[6], &[], &[Some(0)], false), resume(&[], &[6])),
        // Applied, or maybe applied: rolled forward, and only the state is made again.
        (
            "applied by all",
            facts(Some(5), &[6], &[], &[Some(6), Some(6)], true),
            replay(&[], &[], 6),
        ),
        (
            "applied by one",
            facts(Some(5), &[6], &[], &[Some(6), Some(5)], true),
            replay(&[6], &[], 6),
        ),
        ("maybe applied", facts(Some(5), &[6], &[], &[None], true), replay(&[5, 6], &[], 6)),
        (
            "two damaged, one applied",
            facts(Some(5), &[6, 7], &[], &[Some(6)], true),
            replay(&[7], &[], 7),
        ),
        (
            "applied, nothing restored",
            facts(None, &[6], &[], &[Some(6)], true),
            replay(&[], &[], 6),
        ),
        // Unreadable ones in between.
        (
            "older unreadable, applied",
            facts(Some(5), &[7], &[6], &[Some(6)], true),
            replay(&[7], &[], 7),
        ),
        (
            "newer unreadable, not applied",
            facts(Some(5), &[6], &[7], &[Some(6)], true),
            replay(&[], &[7], 6),
        ),
    ];
    for (name, facts, expected) in cases {
        assert_eq!(recovery_plan(&facts).unwrap(), expected, "{name}");
    }
}

#[test]
fn stops() {
    let cases = [
        ("foreign output", facts(None, &[], &[], &[Some(3)], true), "sink-0"),
        (
            "foreign output, older state",
            facts(Some(5), &[6], &[], &[Some(6), Some(9)], true),
            "applied checkpoint 9",
        ),
        ("no replay", facts(Some(5), &[6], &[], &[Some(6)], false), "positions of checkpoint 6"),
        ("no replay, cannot tell", facts(Some(5), &[6], &[], &[None], false), "cannot tell"),
        ("unreadable and applied", facts(Some(5), &[], &[6], &[Some(6)], true), "[6]|{6}"),
        ("unreadable and maybe applied", facts(Some(5), &[], &[6], &[None], true), "cannot tell"),
        (
            "older unreadable, one lacks it",
            facts(Some(5), &[7], &[6], &[Some(6), Some(5)], true),
            "staged",
        ),
        ("older unreadable, cannot tell", facts(Some(5), &[7], &[6], &[None], true), "staged"),
        (
            "newer unreadable, applied",
            facts(Some(5), &[6], &[7], &[Some(7)], true),
            "newest readable 6",
        ),
        (
            "newer unreadable, cannot tell",
            facts(Some(5), &[6], &[7], &[Some(6), None], true),
            "newest readable 6",
        ),
    ];
    for (name, facts, words) in cases {
        match recovery_plan(&facts).unwrap() {
            RecoveryPlan::Stop { reason } => {
                assert!(words.split('|').any(|words| reason.contains(words)), "{name}: {reason}");
                assert!(reason.contains("new output"), "{name} says what can be done: {reason}");
            }
            other => panic!("{name}: {other:?}"),
        }
    }
}

/// About a person who is asked to choose and is not told which sink stands in the way: the sink that
/// is ahead is named, not one that has just what was restored, and all of them where each counts.
#[test]
fn a_stop_names_the_sinks_that_are_in_the_way() {
    let reason = |facts: RecoveryFacts| match recovery_plan(&facts).unwrap() {
        RecoveryPlan::Stop { reason } => reason,
        other => panic!("{other:?}"),
    };
    let ahead = reason(facts(Some(5), &[6], &[], &[Some(5), Some(6)], false));
    assert!(ahead.contains("sink \"sink-1\" has applied checkpoint 6;"), "{ahead}");
    let untold = reason(facts(Some(5), &[6], &[], &[Some(5), None], false));
    assert!(untold.contains("sink \"sink-1\" cannot tell"), "{untold}");
    let lacking = reason(facts(Some(5), &[7], &[6], &[Some(6), Some(5), None], true));
    let all = "\"sink-0\" has applied 6, \"sink-1\" has applied 5, \"sink-2\" cannot tell";
    assert!(lacking.contains(all), "{lacking}");
}

#[test]
fn facts_that_contradict_each_other_are_refused() {
    for facts in [
        facts(Some(0), &[], &[], &[], true),
        facts(Some(5), &[5], &[], &[], true),
        facts(Some(5), &[], &[4], &[], true),
        facts(Some(5), &[6, 6], &[], &[], true),
        facts(Some(5), &[6], &[6], &[], true),
        facts(None, &[0], &[], &[], true),
    ] {
        let error = recovery_plan(&facts).expect_err(&format!("{facts:?}"));
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    }
}

// ---- the model ---------------------------------------------------------------------------

/// State is a fold over all inputs: an input lost, repeated or out of order shows in every
/// later output.
fn fold(state: u64, input: u64) -> u64 {
    state.wrapping_mul(31).wrapping_add(input)
}

#[derive(Debug, Clone)]
struct Record {
    position: usize,
    state: u64,
    damage: Damage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Damage {
    None,
    /// The record can be read; the state cannot be restored.
    State,
    /// Nothing but the id can be read.
    Record,
}

/// An idempotent applier with a marker inside. What it prepares stays with the sink; the record
/// has only the handle, as with files that are renamed at the commit.
#[derive(Debug, Clone, Default)]
struct Sink {
    marker: u64,
    output: Vec<(usize, u64)>,
    prepared: BTreeMap<u64, Vec<(usize, u64)>>,
    tells: bool,
}

impl Sink {
    fn commit(&mut self, checkpoint_id: u64) {
        if self.marker < checkpoint_id {
            let staged = self.prepared.remove(&checkpoint_id);
            self.output.extend(staged.expect("what was decided must not have been aborted"));
            self.marker = checkpoint_id;
        }
    }

    fn abort(&mut self, checkpoint_id: u64) {
        assert!(self.marker < checkpoint_id, "an abort of what is visible");
        self.prepared.remove(&checkpoint_id);
    }
}

/// What one step of a random history does. Numbers are taken modulo what there is.
#[derive(Debug, Clone, Copy)]
enum Act {
    Process(usize),
    Checkpoint,
    /// Starts a checkpoint and crashes after this many effects were carried out; damages the
    /// newest records.
    CrashInCheckpoint(usize, [Damage; 2]),
    /// The store fails in the decision: nothing durable, or durable though it said error.
    DecisionFails {
        durable: bool,
        indefinite: bool,
    },
    Crash,
    /// Damages the newest records, then crashes.
    DamageAndCrash([Damage; 2]),
    /// The next recovery crashes after this many of its steps, and starts again.
    CrashInNextRecovery(usize),
}

struct Job {
    source: Vec<u64>,
    records: BTreeMap<u64, Record>,
    sinks: Vec<Sink>,
    replayable: bool,
    retain: usize,
    next_id: u64,
    // volatile
    position: usize,
    state: u64,
    outputs: Vec<(usize, u64)>,
    coordinator: CheckpointCoordinator,
    recovery_budget: Option<usize>,
    stopped: Option<String>,
    replays: usize,
    fallbacks: usize,
}

fn new_coordinator(sinks: usize) -> CheckpointCoordinator {
    let sinks = (0..sinks).map(|number| format!("sink-{number}"));
    CheckpointCoordinator::new(["task".to_owned()], sinks, 60.0).unwrap()
}

impl Job {
    fn new(inputs: usize, sinks: &[bool], replayable: bool, retain: usize) -> Self {
        let sinks: Vec<Sink> =
            sinks.iter().map(|tells| Sink { tells: *tells, ..Sink::default() }).collect();
        Self {
            source: (0..inputs as u64).map(|number| number * 7 + 3).collect(),
            coordinator: new_coordinator(sinks.len()),
            records: BTreeMap::new(),
            sinks,
            replayable,
            retain,
            next_id: 1,
            position: 0,
            state: 0,
            outputs: Vec::new(),
            recovery_budget: None,
            stopped: None,
            replays: 0,
            fallbacks: 0,
        }
    }

    fn process(&mut self, count: usize) {
        for _ in 0..count.min(self.source.len() - self.position) {
            self.state = fold(self.state, self.source[self.position]);
            self.outputs.push((self.position, self.state));
            self.position += 1;
        }
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Process(count) => self.process(count),
            Act::Checkpoint => self.checkpoint(usize::MAX, None),
            Act::CrashInCheckpoint(effects, damage) => {
                self.checkpoint(effects, None);
                self.damage(damage);
                self.recover();
            }
            Act::DecisionFails { durable, indefinite } => {
                // A store that says "surely not durable" must not lie; the model keeps to it.
                self.checkpoint(usize::MAX, Some((durable && indefinite, indefinite)));
                if self.coordinator.state() == "AwaitingRecovery" {
                    self.recover();
                }
            }
            Act::Crash => self.recover(),
            Act::DamageAndCrash(damage) => {
                self.damage(damage);
                self.recover();
            }
            Act::CrashInNextRecovery(steps) => self.recovery_budget = Some(steps),
        }
    }

    fn damage(&mut self, newest_first: [Damage; 2]) {
        for (record, damage) in self.records.values_mut().rev().zip(newest_first) {
            // Damage does not heal.
            record.damage = record.damage.max(damage);
        }
    }

    /// Carries out a checkpoint's effects, at most `budget` of them.
    fn checkpoint(&mut self, mut budget: usize, decision_fails: Option<(bool, bool)>) {
        let id = self.next_id;
        self.next_id += 1;
        let staged = std::mem::take(&mut self.outputs);
        let mut cut =
            Some(Record { position: self.position, state: self.state, damage: Damage::None });
        let trigger = Event::Trigger { checkpoint_id: id, now_s: 0.0 };
        let mut effects: VecDeque<Effect> = self.coordinator.step(trigger).unwrap().into();
        while let Some(effect) = effects.pop_front() {
            if budget == 0 {
                return;
            }
            budget -= 1;
            let answers = match effect {
                Effect::InjectBarriers { checkpoint_id } => {
                    vec![Event::Acknowledge { task: "task".to_owned(), checkpoint_id, now_s: 0.0 }]
                }
                Effect::PrepareSinks { checkpoint_id } => {
                    for sink in &mut self.sinks {
                        sink.prepared.insert(checkpoint_id, staged.clone());
                    }
                    (0..self.sinks.len())
                        .map(|number| format!("sink-{number}"))
                        .map(|sink| Event::Prepared { sink, checkpoint_id })
                        .collect()
                }
                Effect::Decide { checkpoint_id } => {
                    let (durable, answer) = match decision_fails {
                        None => (true, Event::Decided { checkpoint_id }),
                        Some((durable, indefinite)) => {
                            let reason = "sync failed".to_owned();
                            (durable, Event::DecisionFailed { checkpoint_id, reason, indefinite })
                        }
                    };
                    if durable {
                        self.records.insert(checkpoint_id, cut.take().unwrap());
                    }
                    vec![answer]
                }
                Effect::CommitSink { checkpoint_id, sink } => {
                    let number: usize = sink["sink-".len()..].parse().unwrap();
                    self.sinks[number].commit(checkpoint_id);
                    vec![Event::Committed { sink, checkpoint_id }]
                }
                Effect::Complete { .. } => {
                    // Old records go only when the new one is complete.
                    while self.records.len() > self.retain {
                        self.records.pop_first();
                    }
                    vec![]
                }
                Effect::Abort { checkpoint_id, .. } => {
                    for sink in &mut self.sinks {
                        sink.abort(checkpoint_id);
                    }
                    // Nothing durable: the outputs are still to be written.
                    self.outputs.splice(0..0, staged.iter().copied());
                    vec![]
                }
                Effect::Fail { .. } => vec![],
            };
            for answer in answers {
                effects.extend(self.coordinator.step(answer).unwrap());
            }
        }
    }

    /// Restarts until a recovery comes through.
    fn recover(&mut self) {
        while self.stopped.is_none() && !self.try_recover() {}
    }

    /// One start; false if it crashed on the way.
    fn try_recover(&mut self) -> bool {
        let mut budget = self.recovery_budget.take().unwrap_or(usize::MAX);
        let mut crashes_here = || {
            let crashes = budget == 0;
            budget = budget.saturating_sub(1);
            crashes
        };
        self.coordinator = new_coordinator(self.sinks.len());
        self.outputs.clear();
        let intact = |(_, record): &(&u64, &Record)| record.damage == Damage::None;
        let restored =
            self.records.iter().rev().find(intact).map(|(id, record)| (*id, record.clone()));
        let base = restored.as_ref().map_or(0, |(id, _)| *id);
        let newer = |damage: Damage| -> Vec<u64> {
            let newer = self.records.range(base + 1..);
            newer.filter(|(_, record)| record.damage == damage).map(|(id, _)| *id).collect()
        };
        let facts = RecoveryFacts {
            restored: restored.as_ref().map(|(id, _)| *id),
            decided_after: newer(Damage::State),
            unreadable: newer(Damage::Record),
            applied: (0..)
                .zip(&self.sinks)
                .map(|(number, sink)| (format!("sink-{number}"), sink.tells.then_some(sink.marker)))
                .collect(),
            replayable_to_position: self.replayable,
        };
        let plan = recovery_plan(&facts).unwrap();
        let (roll_forward, abort, until) = match plan {
            RecoveryPlan::Resume { roll_forward, abort } => (roll_forward, abort, None),
            RecoveryPlan::ReplaySuppressed { roll_forward, abort, until } => {
                (roll_forward, abort, Some(until))
            }
            RecoveryPlan::Stop { reason } => {
                self.stopped = Some(reason);
                return true;
            }
        };
        self.fallbacks += usize::from(!abort.is_empty());
        for id in abort {
            if crashes_here() {
                return false;
            }
            self.records.remove(&id);
        }
        for sink in &mut self.sinks {
            // What was prepared and has no record: never decided, or given up.
            sink.prepared.retain(|id, _| self.records.contains_key(id));
        }
        for id in roll_forward {
            for sink in &mut self.sinks {
                if crashes_here() {
                    return false;
                }
                sink.commit(id);
            }
        }
        (self.position, self.state) =
            restored.map_or((0, 0), |(_, record)| (record.position, record.state));
        if let Some(until) = until {
            self.replays += 1;
            let end = self.records[&until].position;
            self.process(end - self.position);
            self.outputs.clear(); // suppressed
            if crashes_here() {
                return false;
            }
        }
        true
    }

    fn expected(&self) -> Vec<(usize, u64)> {
        let fold_next = |state: &mut u64, (position, input): (usize, &u64)| {
            *state = fold(*state, *input);
            Some((position, *state))
        };
        self.source.iter().enumerate().scan(0, fold_next).collect()
    }
}

fn damage() -> impl Strategy<Value = [Damage; 2]> {
    let damage = || {
        prop_oneof![
            3 => Just(Damage::None),
            3 => Just(Damage::State),
            1 => Just(Damage::Record),
        ]
    };
    [damage(), damage()]
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (1..6_usize).prop_map(Act::Process),
        4 => Just(Act::Checkpoint),
        4 => (0..8_usize, damage())
            .prop_map(|(effects, damage)| Act::CrashInCheckpoint(effects, damage)),
        1 => any::<(bool, bool)>()
            .prop_map(|(durable, indefinite)| Act::DecisionFails { durable, indefinite }),
        1 => Just(Act::Crash),
        2 => damage().prop_map(Act::DamageAndCrash),
        1 => (0..5_usize).prop_map(Act::CrashInNextRecovery),
    ]
}

fn run(acts: &[Act], sinks: &[bool], replayable: bool, retain: usize) -> Job {
    let mut job = Job::new(40, sinks, replayable, retain);
    for act in acts {
        job.act(*act);
        for sink in &job.sinks {
            // At no moment does a reader see a lost, repeated or reordered output.
            assert_eq!(sink.output, job.expected()[..sink.output.len()], "after {act:?}");
        }
        if job.stopped.is_some() {
            return job;
        }
    }
    job.process(usize::MAX);
    job.act(Act::Checkpoint);
    for sink in &job.sinks {
        assert_eq!(sink.output, job.expected(), "at the end");
    }
    job
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_crash_histories_are_exact(
        acts in prop::collection::vec(act(), 0..40),
        sinks in prop::collection::vec(prop::bool::weighted(0.8), 0..4),
        replayable in prop::bool::weighted(0.8),
        retain in 3..6_usize,
    ) {
        let job = run(&acts, &sinks, replayable, retain);
        if let Some(reason) = &job.stopped {
            // A stop needs its cause: damage, and sinks that may have applied what is damaged.
            prop_assert!(job.records.values().any(|record| record.damage != Damage::None));
            prop_assert!(!job.sinks.is_empty(), "{}", reason);
            let unreadable = job.records.values().any(|record| record.damage == Damage::Record);
            prop_assert!(!replayable || unreadable, "{}", reason);
        }
    }
}

/// The property means little if the histories avoid the hard plans: each is reached.
#[test]
fn the_hard_plans_are_reached() {
    let damage = Act::DamageAndCrash([Damage::State, Damage::None]);
    // Complete, damaged: the sinks have it.
    let acts = [Act::Process(5), Act::Checkpoint, Act::Process(5), Act::Checkpoint, damage];
    let job = run(&acts, &[true, false], true, 2);
    assert_eq!((job.replays, job.fallbacks, &job.stopped), (1, 0, &None));
    let job = run(&acts, &[true], false, 2);
    assert!(job.stopped.is_some(), "applied, and no way to replay");
    assert_eq!(run(&acts, &[], false, 2).fallbacks, 1, "no sink, nothing applied");

    // Decided, applied by none (3 effects: barrier, prepare, decide), damaged in the same crash.
    let undelivered = |sinks: &[bool]| {
        let mut job = Job::new(40, sinks, true, 2);
        job.act(Act::Process(5));
        job.act(Act::Checkpoint);
        job.act(Act::Process(5));
        job.checkpoint(3, None);
        job.act(damage);
        job.process(usize::MAX);
        job.act(Act::Checkpoint);
        assert!(job.sinks.iter().all(|sink| sink.output == job.expected()));
        (job.replays, job.fallbacks)
    };
    assert_eq!(undelivered(&[true, true]), (0, 1), "given up");
    assert_eq!(undelivered(&[true, false]), (1, 0), "a sink cannot tell: rolled forward");
}
