//! `CheckpointCoordinator` and `recovery_plan`: the protocol parts of the core, for the runner.

use std::collections::BTreeMap;

use onceflow_core::checkpoint::{
    CheckpointCoordinator, Effect, Event, RecoveryFacts, RecoveryPlan, recovery_plan,
};
use parking_lot::Mutex;
use pyo3::prelude::*;

use crate::args::{Arg, List};
use crate::error::to_py;

/// One checkpoint at a time, from barrier to the sinks' commits: a pure state machine.
///
/// ``AwaitingTrigger`` → ``AwaitingAcknowledgements`` (all tasks) → ``AwaitingPrepares`` (all
/// sinks) → ``AwaitingDecision`` (the store) → ``AwaitingSinkCommits`` → complete, which is
/// ``AwaitingTrigger`` again. Until the decision is asked for, anything that fails aborts; from
/// then on nothing does, and after the decision everything rolls forward: what cannot leads to
/// ``AwaitingRecovery``, from which only a recovery and a new coordinator lead on.
///
/// Reports that come late (of an aborted or completed checkpoint) or twice change nothing.
///
/// Args:
///     tasks: Names of the tasks that acknowledge, at least one.
///     sinks: Names of the sinks that prepare and commit, maybe none.
///     timeout_s: An undecided checkpoint is aborted this long after its trigger.
///
/// Raises:
///     ConfigurationError: Names that repeat, no task, a time that is not finite.
///     UnknownNameError: A report of a task or sink that does not exist.
///     CheckpointStateError: A report that no correct peer sends in this state. An error
///         changes nothing.
#[pyclass(name = "CheckpointCoordinator", module = "onceflow._native", frozen)]
pub(crate) struct PyCheckpointCoordinator {
    coordinator: Mutex<CheckpointCoordinator>,
}

impl PyCheckpointCoordinator {
    fn step(&self, event: Event) -> PyResult<Vec<PyCoordinatorEffect>> {
        let effects = self.coordinator.lock().step(event).map_err(to_py)?;
        Ok(effects.into_iter().map(PyCoordinatorEffect::from).collect())
    }
}

#[pymethods]
impl PyCheckpointCoordinator {
    #[new]
    #[pyo3(
        signature = (tasks, sinks, *, timeout_s = Arg::of(600.0)),
        text_signature = "(tasks, sinks, *, timeout_s=600.0)",
    )]
    fn new(
        tasks: Arg<List<String>>,
        sinks: Arg<List<String>>,
        timeout_s: Arg<f64>,
    ) -> PyResult<Self> {
        let List(tasks) = tasks.named("tasks")?;
        let List(sinks) = sinks.named("sinks")?;
        let timeout_s = timeout_s.named("timeout_s")?;
        let coordinator = CheckpointCoordinator::new(tasks, sinks, timeout_s).map_err(to_py)?;
        Ok(Self { coordinator: Mutex::new(coordinator) })
    }

    /// Starts a checkpoint. Ids grow, also past those of aborted ones.
    ///
    /// Refused with CheckpointStateError while another one is under way.
    #[pyo3(signature = (checkpoint_id, *, now_s))]
    fn trigger(
        &self,
        checkpoint_id: Arg<u64>,
        now_s: Arg<f64>,
    ) -> PyResult<Vec<PyCoordinatorEffect>> {
        let checkpoint_id = checkpoint_id.named("checkpoint_id")?;
        let now_s = now_s.named("now_s")?;
        self.step(Event::Trigger { checkpoint_id, now_s })
    }

    /// A task's snapshot is taken. Past the timeout it comes too late.
    #[pyo3(signature = (task, checkpoint_id, *, now_s))]
    fn acknowledge(
        &self,
        task: Arg<String>,
        checkpoint_id: Arg<u64>,
        now_s: Arg<f64>,
    ) -> PyResult<Vec<PyCoordinatorEffect>> {
        let task = task.named("task")?;
        let checkpoint_id = checkpoint_id.named("checkpoint_id")?;
        let now_s = now_s.named("now_s")?;
        self.step(Event::Acknowledge { task, checkpoint_id, now_s })
    }

    /// A task cannot take the snapshot.
    fn decline(
        &self,
        task: Arg<String>,
        checkpoint_id: Arg<u64>,
        reason: Arg<String>,
    ) -> PyResult<Vec<PyCoordinatorEffect>> {
        let task = task.named("task")?;
        let checkpoint_id = checkpoint_id.named("checkpoint_id")?;
        let reason = reason.named("reason")?;
        self.step(Event::Decline { task, checkpoint_id, reason })
    }

    /// A task is done for good: it counts as acknowledged, now and from now on.
    #[pyo3(signature = (task, *, now_s))]
    fn task_finished(
        &self,
        task: Arg<String>,
        now_s: Arg<f64>,
    ) -> PyResult<Vec<PyCoordinatorEffect>> {
        let task = task.named("task")?;
        let now_s = now_s.named("now_s")?;
        self.step(Event::TaskFinished { task, now_s })
    }

    /// A task is lost: a checkpoint that is not acknowledged whole is aborted, one that is goes on. No other one may
    /// begin.
    fn task_failed(
        &self,
        task: Arg<String>,
        reason: Arg<String>,
    ) -> PyResult<Vec<PyCoordinatorEffect>> {
        let task = task.named("task")?;
        let reason = reason.named("reason")?;
        self.step(Event::TaskFailed { task, reason })
    }

    /// A sink's output is durable, and invisible.
    fn prepared(
        &self,
        sink: Arg<String>,
        checkpoint_id: Arg<u64>,
    ) -> PyResult<Vec<PyCoordinatorEffect>> {
        let sink = sink.named("sink")?;
        let checkpoint_id = checkpoint_id.named("checkpoint_id")?;
        self.step(Event::Prepared { sink, checkpoint_id })
    }

    /// A sink could not prepare: the checkpoint is aborted.
    fn prepare_failed(
        &self,
        sink: Arg<String>,
        checkpoint_id: Arg<u64>,
        reason: Arg<String>,
    ) -> PyResult<Vec<PyCoordinatorEffect>> {
        let sink = sink.named("sink")?;
        let checkpoint_id = checkpoint_id.named("checkpoint_id")?;
        let reason = reason.named("reason")?;
        self.step(Event::PrepareFailed { sink, checkpoint_id, reason })
    }

    /// The decision record is durable.
    fn decided(&self, checkpoint_id: Arg<u64>) -> PyResult<Vec<PyCoordinatorEffect>> {
        let checkpoint_id = checkpoint_id.named("checkpoint_id")?;
        self.step(Event::Decided { checkpoint_id })
    }

    /// The store failed.
    ///
    /// ``indefinite``: the record may be durable nevertheless (a failed sync), so the job must
    /// stop and recover. Pass False only if the store is sure that nothing became durable (it
    /// refused before it wrote): then the checkpoint is aborted and the job goes on.
    #[pyo3(
        signature = (checkpoint_id, reason, *, indefinite = Arg::of(true)),
        text_signature = "($self, checkpoint_id, reason, *, indefinite=True)",
    )]
    fn decision_failed(
        &self,
        checkpoint_id: Arg<u64>,
        reason: Arg<String>,
        indefinite: Arg<bool>,
    ) -> PyResult<Vec<PyCoordinatorEffect>> {
        let checkpoint_id = checkpoint_id.named("checkpoint_id")?;
        let reason = reason.named("reason")?;
        let indefinite = indefinite.named("indefinite")?;
        self.step(Event::DecisionFailed { checkpoint_id, reason, indefinite })
    }

    /// A sink's output is visible.
    fn committed(
        &self,
        sink: Arg<String>,
        checkpoint_id: Arg<u64>,
    ) -> PyResult<Vec<PyCoordinatorEffect>> {
        let sink = sink.named("sink")?;
        let checkpoint_id = checkpoint_id.named("checkpoint_id")?;
        self.step(Event::Committed { sink, checkpoint_id })
    }

    /// A sink could not commit: ``fail``, and the recovery commits again.
    fn commit_failed(
        &self,
        sink: Arg<String>,
        checkpoint_id: Arg<u64>,
        reason: Arg<String>,
    ) -> PyResult<Vec<PyCoordinatorEffect>> {
        let sink = sink.named("sink")?;
        let checkpoint_id = checkpoint_id.named("checkpoint_id")?;
        let reason = reason.named("reason")?;
        self.step(Event::CommitFailed { sink, checkpoint_id, reason })
    }

    /// Aborts a checkpoint whose decision was not asked for within its timeout.
    fn tick(&self, now_s: Arg<f64>) -> PyResult<Vec<PyCoordinatorEffect>> {
        let now_s = now_s.named("now_s")?;
        self.step(Event::Tick { now_s })
    }

    #[getter]
    fn state(&self) -> &'static str {
        self.coordinator.lock().state()
    }

    /// The checkpoint under way, or the one that needs a recovery.
    #[getter]
    fn checkpoint_id(&self) -> Option<u64> {
        self.coordinator.lock().checkpoint_id()
    }

    #[getter]
    fn last_completed(&self) -> Option<u64> {
        self.coordinator.lock().last_completed()
    }
}

/// What the caller must do, in order.
#[pyclass(name = "CoordinatorEffect", module = "onceflow._native", frozen, eq, hash)]
#[derive(PartialEq, Eq, Hash)]
pub(crate) enum PyCoordinatorEffect {
    /// Send the barriers of this checkpoint through the tasks.
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

impl From<Effect> for PyCoordinatorEffect {
    fn from(effect: Effect) -> Self {
        match effect {
            Effect::InjectBarriers { checkpoint_id } => Self::InjectBarriers { checkpoint_id },
            Effect::PrepareSinks { checkpoint_id } => Self::PrepareSinks { checkpoint_id },
            Effect::Decide { checkpoint_id } => Self::Decide { checkpoint_id },
            Effect::CommitSink { checkpoint_id, sink } => Self::CommitSink { checkpoint_id, sink },
            Effect::Complete { checkpoint_id } => Self::Complete { checkpoint_id },
            Effect::Abort { checkpoint_id, reason } => Self::Abort { checkpoint_id, reason },
            Effect::Fail { checkpoint_id, reason } => Self::Fail { checkpoint_id, reason },
        }
    }
}

#[pymethods]
impl PyCoordinatorEffect {
    fn __repr__(&self) -> String {
        match self {
            Self::InjectBarriers { checkpoint_id } => {
                format!("CoordinatorEffect.InjectBarriers(checkpoint_id={checkpoint_id})")
            }
            Self::PrepareSinks { checkpoint_id } => {
                format!("CoordinatorEffect.PrepareSinks(checkpoint_id={checkpoint_id})")
            }
            Self::Decide { checkpoint_id } => {
                format!("CoordinatorEffect.Decide(checkpoint_id={checkpoint_id})")
            }
            Self::CommitSink { checkpoint_id, sink } => {
                format!(
                    "CoordinatorEffect.CommitSink(checkpoint_id={checkpoint_id}, sink={sink:?})"
                )
            }
            Self::Complete { checkpoint_id } => {
                format!("CoordinatorEffect.Complete(checkpoint_id={checkpoint_id})")
            }
            Self::Abort { checkpoint_id, reason } => {
                format!("CoordinatorEffect.Abort(checkpoint_id={checkpoint_id}, reason={reason:?})")
            }
            Self::Fail { checkpoint_id, reason } => {
                format!("CoordinatorEffect.Fail(checkpoint_id={checkpoint_id}, reason={reason:?})")
            }
        }
    }
}

/// What an exact recovery must do. Raise the epoch and fence the sinks before asking them.
///
/// Args:
///     restored: The checkpoint that state was restored from; None if there is none.
///     decided_after: Newer ones whose decision can be read though their state cannot.
///     applied: By sink, the newest checkpoint it has applied: 0 if none (ids start at 1),
///         None if it cannot tell.
///     replayable_to_position: Every source can be read from the restored positions to exactly
///         those of a later checkpoint, and the dataflow is deterministic.
///     unreadable: Newer ones of whose decision record nothing but the id is known.
///
/// Raises:
///     ConfigurationError: Facts that contradict each other.
#[pyfunction]
#[pyo3(
    name = "recovery_plan",
    signature = (
        *,
        restored,
        decided_after,
        applied,
        replayable_to_position,
        unreadable = Arg::of(List(Vec::new())),
    ),
    text_signature =
        "(*, restored, decided_after, applied, replayable_to_position, unreadable=())"
)]
pub(crate) fn py_recovery_plan(
    restored: Arg<Option<u64>>,
    decided_after: Arg<List<u64>>,
    applied: Arg<BTreeMap<String, Option<u64>>>,
    replayable_to_position: Arg<bool>,
    unreadable: Arg<List<u64>>,
) -> PyResult<PyRecoveryPlan> {
    let facts = RecoveryFacts {
        restored: restored.named("restored")?,
        decided_after: decided_after.named("decided_after")?.0,
        unreadable: unreadable.named("unreadable")?.0,
        applied: applied.named("applied")?,
        replayable_to_position: replayable_to_position.named("replayable_to_position")?,
    };
    recovery_plan(&facts).map(PyRecoveryPlan::from).map_err(to_py)
}

/// What to do. After a crash in the middle, ask for a new plan.
///
/// ``abort``: ids to give up for good; drop their records durably, then abort them in the sinks.
/// ``roll_forward``: ids whose staged outputs every sink must commit again then, ascending (idempotent).
#[pyclass(name = "RecoveryPlan", module = "onceflow._native", frozen, eq, hash)]
#[derive(PartialEq, Eq, Hash)]
pub(crate) enum PyRecoveryPlan {
    /// Then go on from the restored checkpoint.
    Resume { roll_forward: Vec<u64>, abort: Vec<u64> },
    /// Then read on to exactly the positions of checkpoint ``until`` with outputs suppressed, and go on.
    ReplaySuppressed { roll_forward: Vec<u64>, abort: Vec<u64>, until: u64 },
    /// No exact recovery is possible; a person must choose. ``reason``: why, and what can be done.
    Stop { reason: String },
}

impl From<RecoveryPlan> for PyRecoveryPlan {
    fn from(plan: RecoveryPlan) -> Self {
        match plan {
            RecoveryPlan::Resume { roll_forward, abort } => Self::Resume { roll_forward, abort },
            RecoveryPlan::ReplaySuppressed { roll_forward, abort, until } => {
                Self::ReplaySuppressed { roll_forward, abort, until }
            }
            RecoveryPlan::Stop { reason } => Self::Stop { reason },
        }
    }
}

#[pymethods]
impl PyRecoveryPlan {
    fn __repr__(&self) -> String {
        match self {
            Self::Resume { roll_forward, abort } => {
                format!("RecoveryPlan.Resume(roll_forward={roll_forward:?}, abort={abort:?})")
            }
            Self::ReplaySuppressed { roll_forward, abort, until } => format!(
                "RecoveryPlan.ReplaySuppressed(roll_forward={roll_forward:?}, abort={abort:?}, until={until})"
            ),
            Self::Stop { reason } => format!("RecoveryPlan.Stop(reason={reason:?})"),
        }
    }
}
