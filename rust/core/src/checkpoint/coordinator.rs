//! The checkpoint coordinator: one checkpoint at a time, from its barriers to the sinks' commits.
//!
//! ```text
//! AwaitingTrigger ── trigger ──> AwaitingAcknowledgements ── all tasks ──> AwaitingPrepares
//!       ^  ^                            │ decline, timeout, lost task       │ failure, timeout
//!       │  └────────── abort ───────────┴───────────────────────────────────┘ all sinks
//!       │                                                                   v
//!       └── all sinks ── AwaitingSinkCommits <── decided ───────── AwaitingDecision
//!                              │ a sink fails                               │ outcome unknown
//!                              └───────> AwaitingRecovery <─────────────────┘
//! ```
//!
//! The store's decision is the only commit point. Until the decision is asked for, whatever
//! fails aborts. From then on nobody but the store can say what became of the checkpoint: while
//! its answer is awaited nothing aborts, neither a timeout nor a late decline, because an abort
//! would tell the sinks to throw away what a decision may already have promised. For the same
//! reason a failed decision aborts only if the store is sure that nothing became durable; after
//! a failed sync nobody is, so the job stops and its recovery reads what the disk says. After
//! the decision everything rolls forward: a sink that cannot commit stops the job, and the
//! recovery commits again.
//!
//! Messages may come late, twice, or for checkpoints long over: those change nothing. A message
//! that no correct peer sends (an unknown name, a checkpoint never triggered, a decision nobody
//! asked for) is an error, and changes nothing either.

use std::collections::{BTreeMap, BTreeSet};

use super::ledger::SinkLedger;
use crate::{Error, ErrorKind, Result};

/// What the coordinator is told. Times are seconds on one clock of the caller.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)] // the fields mean the same everywhere
pub enum Event {
    /// Start this checkpoint. Ids grow: the id of an aborted one is never used again.
    Trigger { checkpoint_id: u64, now_s: f64 },
    /// A task's snapshot is handed to the store.
    Acknowledge { task: String, checkpoint_id: u64, now_s: f64 },
    /// A task cannot take the snapshot.
    Decline { task: String, checkpoint_id: u64, reason: String },
    /// A task is done for good: it counts as acknowledged, now and from now on.
    TaskFinished { task: String, now_s: f64 },
    /// A task is lost. What is not acknowledged whole is aborted; what is goes on, since the cut is
    /// taken. No other checkpoint may begin: the job must stop and recover.
    TaskFailed { task: String, reason: String },
    /// A sink's output is durable, and invisible.
    Prepared { sink: String, checkpoint_id: u64 },
    /// A sink could not prepare.
    PrepareFailed { sink: String, checkpoint_id: u64, reason: String },
    /// The decision record is durable.
    Decided { checkpoint_id: u64 },
    /// The store failed. `indefinite`: the record may be durable nevertheless.
    DecisionFailed { checkpoint_id: u64, reason: String, indefinite: bool },
    /// A sink's output is visible.
    Committed { sink: String, checkpoint_id: u64 },
    /// A sink could not commit.
    CommitFailed { sink: String, checkpoint_id: u64, reason: String },
    /// Time passed.
    Tick { now_s: f64 },
}

/// What the caller must do, in the order given.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Effect {
    /// Send the barrier through the tasks.
    InjectBarriers { checkpoint_id: u64 },
    /// Ask every sink to prepare.
    PrepareSinks { checkpoint_id: u64 },
    /// Write the decision record.
    Decide { checkpoint_id: u64 },
    /// Let this sink commit.
    CommitSink { checkpoint_id: u64, sink: String },
    /// Everything is done.
    Complete { checkpoint_id: u64 },
    /// Tell all tasks and all sinks, also those that are still preparing, to give it up.
    Abort { checkpoint_id: u64, reason: String },
    /// The job must stop and recover.
    Fail { checkpoint_id: u64, reason: String },
}

/// See the module.
#[derive(Debug, Clone)]
pub struct CheckpointCoordinator {
    /// Every task, and whether it has finished.
    tasks: BTreeMap<String, bool>,
    /// The first task that was lost.
    failed: Option<String>,
    ledger: SinkLedger,
    timeout_s: f64,
    state: State,
    /// The newest id that was triggered.
    newest: Option<u64>,
    last_completed: Option<u64>,
}

#[derive(Debug, Clone)]
#[expect(clippy::enum_variant_names, reason = "a state is named for what it waits for")]
enum State {
    AwaitingTrigger,
    AwaitingAcknowledgements { checkpoint_id: u64, deadline_s: f64, missing: BTreeSet<String> },
    AwaitingPrepares { checkpoint_id: u64, deadline_s: f64 },
    AwaitingDecision { checkpoint_id: u64 },
    AwaitingSinkCommits { checkpoint_id: u64 },
    AwaitingRecovery { checkpoint_id: u64 },
}

impl State {
    fn checkpoint_id(&self) -> Option<u64> {
        match self {
            Self::AwaitingTrigger => None,
            Self::AwaitingAcknowledgements { checkpoint_id, .. }
            | Self::AwaitingPrepares { checkpoint_id, .. }
            | Self::AwaitingDecision { checkpoint_id }
            | Self::AwaitingSinkCommits { checkpoint_id }
            | Self::AwaitingRecovery { checkpoint_id } => Some(*checkpoint_id),
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::AwaitingTrigger => "AwaitingTrigger",
            Self::AwaitingAcknowledgements { .. } => "AwaitingAcknowledgements",
            Self::AwaitingPrepares { .. } => "AwaitingPrepares",
            Self::AwaitingDecision { .. } => "AwaitingDecision",
            Self::AwaitingSinkCommits { .. } => "AwaitingSinkCommits",
            Self::AwaitingRecovery { .. } => "AwaitingRecovery",
        }
    }
}

impl Event {
    fn now_s(&self) -> Option<f64> {
        match self {
            Self::Trigger { now_s, .. }
            | Self::Acknowledge { now_s, .. }
            | Self::TaskFinished { now_s, .. }
            | Self::Tick { now_s } => Some(*now_s),
            _ => None,
        }
    }

    /// The checkpoint that a report is about (a trigger is no report).
    fn about(&self) -> Option<u64> {
        match self {
            Self::Trigger { .. }
            | Self::TaskFinished { .. }
            | Self::TaskFailed { .. }
            | Self::Tick { .. } => None,
            Self::Acknowledge { checkpoint_id, .. }
            | Self::Decline { checkpoint_id, .. }
            | Self::Prepared { checkpoint_id, .. }
            | Self::PrepareFailed { checkpoint_id, .. }
            | Self::Decided { checkpoint_id }
            | Self::DecisionFailed { checkpoint_id, .. }
            | Self::Committed { checkpoint_id, .. }
            | Self::CommitFailed { checkpoint_id, .. } => Some(*checkpoint_id),
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Trigger { .. } => "trigger",
            Self::Acknowledge { .. } => "acknowledge",
            Self::Decline { .. } => "decline",
            Self::TaskFinished { .. } => "task_finished",
            Self::TaskFailed { .. } => "task_failed",
            Self::Prepared { .. } => "prepared",
            Self::PrepareFailed { .. } => "prepare_failed",
            Self::Decided { .. } => "decided",
            Self::DecisionFailed { .. } => "decision_failed",
            Self::Committed { .. } => "committed",
            Self::CommitFailed { .. } => "commit_failed",
            Self::Tick { .. } => "tick",
        }
    }
}

impl CheckpointCoordinator {
    /// A coordinator of these tasks (at least one) and sinks (maybe none). A checkpoint whose
    /// decision has not been asked for `timeout_s` after its trigger is aborted.
    pub fn new(
        tasks: impl IntoIterator<Item = String>,
        sinks: impl IntoIterator<Item = String>,
        timeout_s: f64,
    ) -> Result<Self> {
        let mut by_name = BTreeMap::new();
        for task in tasks {
            if by_name.insert(task.clone(), false).is_some() {
                return Err(invalid(format!(
                    "two tasks are named {task:?}: give each task a name of its own"
                )));
            }
        }
        if by_name.is_empty() {
            return Err(invalid("a coordinator needs at least 1 task, got 0".to_owned()));
        }
        if !(timeout_s.is_finite() && timeout_s > 0.0) {
            return Err(invalid(format!(
                "timeout_s must be a finite number of seconds above 0, got {timeout_s}"
            )));
        }
        Ok(Self {
            tasks: by_name,
            failed: None,
            ledger: SinkLedger::new(sinks)?,
            timeout_s,
            state: State::AwaitingTrigger,
            newest: None,
            last_completed: None,
        })
    }

    /// What it waits for, by name.
    pub fn state(&self) -> &'static str {
        self.state.name()
    }

    /// The checkpoint under way, or the one that needs a recovery.
    pub fn checkpoint_id(&self) -> Option<u64> {
        self.state.checkpoint_id()
    }

    /// The newest checkpoint that every sink has committed.
    pub fn last_completed(&self) -> Option<u64> {
        self.last_completed
    }

    /// How far each sink is.
    pub fn ledger(&self) -> &SinkLedger {
        &self.ledger
    }

    /// One event, and what it makes the caller do. An error changes nothing.
    pub fn step(&mut self, event: Event) -> Result<Vec<Effect>> {
        self.check(&event)?;
        let mut effects = Vec::new();
        if let Some(now_s) = event.now_s() {
            // An acknowledgement after the timeout is late, whether or not a tick came first.
            self.expire(now_s, &mut effects);
        }
        if event.about().is_some() && event.about() != self.checkpoint_id() {
            return Ok(effects); // about a checkpoint that is over
        }
        match (&mut self.state, event) {
            (State::AwaitingTrigger, Event::Trigger { checkpoint_id, now_s }) => {
                let running = self.tasks.iter().filter(|(_, finished)| !**finished);
                let missing: BTreeSet<String> = running.map(|(task, _)| task.clone()).collect();
                let deadline_s = now_s + self.timeout_s;
                self.newest = Some(checkpoint_id);
                if missing.is_empty() {
                    self.ask_to_prepare(checkpoint_id, deadline_s, &mut effects);
                } else {
                    effects.push(Effect::InjectBarriers { checkpoint_id });
                    self.state =
                        State::AwaitingAcknowledgements { checkpoint_id, deadline_s, missing };
                }
            }

            (
                State::AwaitingAcknowledgements { checkpoint_id, deadline_s, missing },
                Event::Acknowledge { task, .. },
            ) => {
                let (checkpoint_id, deadline_s) = (*checkpoint_id, *deadline_s);
                if missing.remove(&task) && missing.is_empty() {
                    self.ask_to_prepare(checkpoint_id, deadline_s, &mut effects);
                }
            }
            (
                State::AwaitingAcknowledgements { checkpoint_id, deadline_s, missing },
                Event::TaskFinished { task, .. },
            ) => {
                let (checkpoint_id, deadline_s) = (*checkpoint_id, *deadline_s);
                let last = missing.remove(&task) && missing.is_empty();
                self.tasks.insert(task, true);
                if last {
                    self.ask_to_prepare(checkpoint_id, deadline_s, &mut effects);
                }
            }
            (_, Event::TaskFinished { task, .. }) => {
                self.tasks.insert(task, true);
            }
            (state, Event::TaskFailed { task, reason }) => {
                let incomplete = match state {
                    State::AwaitingAcknowledgements { checkpoint_id, .. } => Some(*checkpoint_id),
                    _ => None,
                };
                if let Some(checkpoint_id) = incomplete {
                    let reason = format!("task {task:?} failed: {reason}");
                    self.abort(checkpoint_id, reason, &mut effects);
                }
                self.failed.get_or_insert(task);
            }
            (
                State::AwaitingAcknowledgements { checkpoint_id, .. }
                | State::AwaitingPrepares { checkpoint_id, .. },
                Event::Decline { task, reason, .. },
            ) => {
                let checkpoint_id = *checkpoint_id;
                let reason = format!("task {task:?} declined: {reason}");
                self.abort(checkpoint_id, reason, &mut effects);
            }
            (
                State::AwaitingAcknowledgements { checkpoint_id, .. }
                | State::AwaitingPrepares { checkpoint_id, .. },
                Event::PrepareFailed { sink, reason, .. },
            ) => {
                let checkpoint_id = *checkpoint_id;
                let reason = format!("sink {sink:?} could not prepare: {reason}");
                self.abort(checkpoint_id, reason, &mut effects);
            }

            (State::AwaitingPrepares { checkpoint_id, .. }, Event::Prepared { sink, .. }) => {
                let checkpoint_id = *checkpoint_id;
                self.ledger.prepare(&sink, checkpoint_id)?;
                if self.ledger.unprepared(checkpoint_id).next().is_none() {
                    self.ask_to_decide(checkpoint_id, &mut effects);
                }
            }

            (State::AwaitingDecision { checkpoint_id }, Event::Decided { .. }) => {
                let checkpoint_id = *checkpoint_id;
                self.ledger.decide(checkpoint_id)?;
                self.state = State::AwaitingSinkCommits { checkpoint_id };
                effects.extend(
                    self.ledger
                        .uncommitted()
                        .map(|sink| Effect::CommitSink { checkpoint_id, sink: sink.to_owned() }),
                );
                self.complete_if_committed(checkpoint_id, &mut effects);
            }
            (
                State::AwaitingDecision { checkpoint_id },
                Event::DecisionFailed { reason, indefinite, .. },
            ) => {
                let checkpoint_id = *checkpoint_id;
                if indefinite {
                    let reason = format!("the decision may or may not be durable: {reason}");
                    self.fail(checkpoint_id, reason, &mut effects);
                } else {
                    self.abort(checkpoint_id, format!("not decided: {reason}"), &mut effects);
                }
            }

            (State::AwaitingSinkCommits { checkpoint_id }, Event::Committed { sink, .. }) => {
                let checkpoint_id = *checkpoint_id;
                self.ledger.commit(&sink, checkpoint_id)?;
                self.complete_if_committed(checkpoint_id, &mut effects);
            }
            (
                State::AwaitingSinkCommits { checkpoint_id },
                Event::CommitFailed { sink, reason, .. },
            ) => {
                let checkpoint_id = *checkpoint_id;
                let reason = format!(
                    "sink {sink:?} could not commit, and a decided checkpoint only rolls \
                     forward: {reason}"
                );
                self.fail(checkpoint_id, reason, &mut effects);
            }

            // Reports that come twice, or once their step is over.
            (_, Event::Tick { .. } | Event::Acknowledge { .. } | Event::Decline { .. })
            | (
                State::AwaitingDecision { .. } | State::AwaitingSinkCommits { .. },
                Event::Prepared { .. },
            )
            | (State::AwaitingSinkCommits { .. }, Event::Decided { .. }) => {}

            // The recovery asks store and sinks anew: what they still report here is void.
            (
                State::AwaitingRecovery { .. },
                Event::Prepared { .. }
                | Event::PrepareFailed { .. }
                | Event::Decided { .. }
                | Event::DecisionFailed { .. }
                | Event::Committed { .. }
                | Event::CommitFailed { .. },
            ) => {}

            (State::AwaitingRecovery { checkpoint_id }, Event::Trigger { .. }) => {
                return Err(state_error(format!(
                    "checkpoint {checkpoint_id} failed after its decision was asked for: stop the \
                     job and recover before the next checkpoint"
                ))
                .with_checkpoint(*checkpoint_id));
            }
            (state, event) => {
                let current = state.checkpoint_id();
                let error = state_error(format!(
                    "{} does not fit: checkpoint {} is {}",
                    event.name(),
                    current.map_or_else(|| "none".to_owned(), |id| id.to_string()),
                    state.name()
                ));
                return Err(match event.about().or(current) {
                    Some(id) => error.with_checkpoint(id),
                    None => error,
                });
            }
        }
        Ok(effects)
    }

    /// Everything that makes an event an error in any state.
    fn check(&self, event: &Event) -> Result<()> {
        if let Some(now_s) = event.now_s()
            && !now_s.is_finite()
        {
            return Err(invalid(format!("now_s must be a finite number of seconds, got {now_s}")));
        }
        match event {
            Event::Acknowledge { task, .. }
            | Event::Decline { task, .. }
            | Event::TaskFinished { task, .. }
            | Event::TaskFailed { task, .. } => {
                if !self.tasks.contains_key(task) {
                    let known: Vec<_> = self.tasks.keys().collect();
                    return Err(Error::new(
                        ErrorKind::UnknownName,
                        format!("no task is named {task:?}; the tasks are {known:?}"),
                    ));
                }
            }
            Event::Prepared { sink, .. }
            | Event::PrepareFailed { sink, .. }
            | Event::Committed { sink, .. }
            | Event::CommitFailed { sink, .. } => {
                self.ledger.progress(sink)?;
            }
            Event::Trigger { checkpoint_id, .. } => {
                if let Some(task) = &self.failed {
                    return Err(state_error(format!(
                        "checkpoint {checkpoint_id} cannot be triggered: task {task:?} has failed; \
                         stop the job and recover"
                    ))
                    .with_checkpoint(*checkpoint_id));
                }
                if self.newest >= Some(*checkpoint_id) {
                    return Err(state_error(format!(
                        "checkpoint {checkpoint_id} cannot be triggered after checkpoint {}: ids \
                         must grow, and that of an aborted checkpoint is never used again",
                        self.newest.unwrap_or_default()
                    ))
                    .with_checkpoint(*checkpoint_id));
                }
            }
            Event::Decided { checkpoint_id } => {
                let known = self.ledger.decided() == Some(*checkpoint_id)
                    || self.checkpoint_id() == Some(*checkpoint_id);
                if !known {
                    return Err(state_error(format!(
                        "checkpoint {checkpoint_id} was decided although it is over or was never \
                         triggered: stop the job and recover"
                    ))
                    .with_checkpoint(*checkpoint_id));
                }
            }
            Event::DecisionFailed { .. } | Event::Tick { .. } => {}
        }
        match event.about() {
            Some(id) if self.newest < Some(id) => Err(state_error(format!(
                "{} is about checkpoint {id}, which was never triggered; the newest is {}",
                event.name(),
                self.newest.map_or_else(|| "none".to_owned(), |newest| newest.to_string())
            ))
            .with_checkpoint(id)),
            _ => Ok(()),
        }
    }

    /// Aborts a checkpoint whose decision was not asked for in time.
    fn expire(&mut self, now_s: f64, effects: &mut Vec<Effect>) {
        let (checkpoint_id, deadline_s, waited_for) = match &self.state {
            State::AwaitingAcknowledgements { checkpoint_id, deadline_s, missing } => {
                let missing: Vec<_> = missing.iter().collect();
                (*checkpoint_id, *deadline_s, format!("acknowledgements of {missing:?}"))
            }
            State::AwaitingPrepares { checkpoint_id, deadline_s } => {
                let missing: Vec<_> = self.ledger.unprepared(*checkpoint_id).collect();
                (*checkpoint_id, *deadline_s, format!("sinks {missing:?} to prepare"))
            }
            State::AwaitingTrigger
            | State::AwaitingDecision { .. }
            | State::AwaitingSinkCommits { .. }
            | State::AwaitingRecovery { .. } => return,
        };
        if now_s >= deadline_s {
            let reason = format!("waited {} s for {waited_for}", self.timeout_s);
            self.abort(checkpoint_id, reason, effects);
        }
    }

    fn ask_to_prepare(&mut self, checkpoint_id: u64, deadline_s: f64, effects: &mut Vec<Effect>) {
        if self.ledger.sinks().next().is_none() {
            self.ask_to_decide(checkpoint_id, effects);
        } else {
            effects.push(Effect::PrepareSinks { checkpoint_id });
            self.state = State::AwaitingPrepares { checkpoint_id, deadline_s };
        }
    }

    fn ask_to_decide(&mut self, checkpoint_id: u64, effects: &mut Vec<Effect>) {
        effects.push(Effect::Decide { checkpoint_id });
        self.state = State::AwaitingDecision { checkpoint_id };
    }

    fn complete_if_committed(&mut self, checkpoint_id: u64, effects: &mut Vec<Effect>) {
        if self.ledger.uncommitted().next().is_none() {
            effects.push(Effect::Complete { checkpoint_id });
            self.last_completed = Some(checkpoint_id);
            self.state = State::AwaitingTrigger;
        }
    }

    fn abort(&mut self, checkpoint_id: u64, reason: String, effects: &mut Vec<Effect>) {
        // The ledger refuses to abort what is decided; here that cannot be, see `step`.
        let aborted = self.ledger.abort(checkpoint_id);
        debug_assert!(aborted.is_ok());
        effects.push(Effect::Abort { checkpoint_id, reason });
        self.state = State::AwaitingTrigger;
    }

    fn fail(&mut self, checkpoint_id: u64, reason: String, effects: &mut Vec<Effect>) {
        effects.push(Effect::Fail { checkpoint_id, reason });
        self.state = State::AwaitingRecovery { checkpoint_id };
    }
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidArgument, message)
}

fn state_error(message: String) -> Error {
    Error::new(ErrorKind::CheckpointState, message)
}
