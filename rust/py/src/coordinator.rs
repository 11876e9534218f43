//! `CheckpointCoordinator` and `recovery_plan`: the protocol parts of the core, for the runner.

use std::collections::BTreeMap;

use onceflow_core::checkpoint::{
    CheckpointCoordinator, Effect, Event, RecoveryFacts, RecoveryPlan, recovery_plan,
};
use parking_lot::Mutex;
use pyo3::prelude::*;

use crate::error::to_py;

/// See `onceflow.CheckpointCoordinator`.
#[pyclass(name = "CheckpointCoordinator", module = "onceflow._native", frozen)]
pub(crate) struct PyCheckpointCoordinator {
    coordinator: Mutex<CheckpointCoordinator>,
}

impl PyCheckpointCoordinator {
    fn step(&self, event: Event) -> PyResult<Vec<PyCoordinatorEffect>> {
        let effects = self.coordinator.lock().step(event).map_err(to_py)?;
        Ok(effects.into_iter().map(|effect| PyCoordinatorEffect { effect }).collect())
    }
}

#[pymethods]
impl PyCheckpointCoordinator {
    #[new]
    #[pyo3(signature = (tasks, sinks, *, timeout_s = 600.0))]
    fn new(tasks: Vec<String>, sinks: Vec<String>, timeout_s: f64) -> PyResult<Self> {
        let coordinator = CheckpointCoordinator::new(tasks, sinks, timeout_s).map_err(to_py)?;
        Ok(Self { coordinator: Mutex::new(coordinator) })
    }

    #[pyo3(signature = (checkpoint_id, *, now_s))]
    fn trigger(&self, checkpoint_id: u64, now_s: f64) -> PyResult<Vec<PyCoordinatorEffect>> {
        self.step(Event::Trigger { checkpoint_id, now_s })
    }

    #[pyo3(signature = (task, checkpoint_id, *, now_s))]
    fn acknowledge(
        &self,
        task: String,
        checkpoint_id: u64,
        now_s: f64,
    ) -> PyResult<Vec<PyCoordinatorEffect>> {
        self.step(Event::Acknowledge { task, checkpoint_id, now_s })
    }

    fn decline(
        &self,
        task: String,
        checkpoint_id: u64,
        reason: String,
    ) -> PyResult<Vec<PyCoordinatorEffect>> {
        self.step(Event::Decline { task, checkpoint_id, reason })
    }

    #[pyo3(signature = (task, *, now_s))]
    fn task_finished(&self, task: String, now_s: f64) -> PyResult<Vec<PyCoordinatorEffect>> {
        self.step(Event::TaskFinished { task, now_s })
    }

    fn prepared(&self, sink: String, checkpoint_id: u64) -> PyResult<Vec<PyCoordinatorEffect>> {
        self.step(Event::Prepared { sink, checkpoint_id })
    }

    fn prepare_failed(
        &self,
        sink: String,
        checkpoint_id: u64,
        reason: String,
    ) -> PyResult<Vec<PyCoordinatorEffect>> {
        self.step(Event::PrepareFailed { sink, checkpoint_id, reason })
    }

    fn decided(&self, checkpoint_id: u64) -> PyResult<Vec<PyCoordinatorEffect>> {
        self.step(Event::Decided { checkpoint_id })
    }

    #[pyo3(signature = (checkpoint_id, reason, *, indefinite = true))]
    fn decision_failed(
        &self,
        checkpoint_id: u64,
        reason: String,
        indefinite: bool,
    ) -> PyResult<Vec<PyCoordinatorEffect>> {
        self.step(Event::DecisionFailed { checkpoint_id, reason, indefinite })
    }

    fn committed(&self, sink: String, checkpoint_id: u64) -> PyResult<Vec<PyCoordinatorEffect>> {
        self.step(Event::Committed { sink, checkpoint_id })
    }

    fn commit_failed(
        &self,
        sink: String,
        checkpoint_id: u64,
        reason: String,
    ) -> PyResult<Vec<PyCoordinatorEffect>> {
        self.step(Event::CommitFailed { sink, checkpoint_id, reason })
    }

    fn tick(&self, now_s: f64) -> PyResult<Vec<PyCoordinatorEffect>> {
        self.step(Event::Tick { now_s })
    }

    #[getter]
    fn state(&self) -> &'static str {
        self.coordinator.lock().state()
    }

    #[getter]
    fn checkpoint_id(&self) -> Option<u64> {
        self.coordinator.lock().checkpoint_id()
    }

    #[getter]
    fn last_completed(&self) -> Option<u64> {
        self.coordinator.lock().last_completed()
    }
}

/// What the caller of a coordinator must do.
#[pyclass(name = "CoordinatorEffect", module = "onceflow._native", frozen)]
pub(crate) struct PyCoordinatorEffect {
    effect: Effect,
}

#[pymethods]
impl PyCoordinatorEffect {
    #[getter]
    fn kind(&self) -> &'static str {
        match &self.effect {
            Effect::InjectBarrier { .. } => "inject_barrier",
            Effect::PrepareSinks { .. } => "prepare_sinks",
            Effect::Decide { .. } => "decide",
            Effect::CommitSink { .. } => "commit_sink",
            Effect::Complete { .. } => "complete",
            Effect::Abort { .. } => "abort",
            Effect::Fail { .. } => "fail",
        }
    }

    #[getter]
    fn checkpoint_id(&self) -> u64 {
        match &self.effect {
            Effect::InjectBarrier { checkpoint_id }
            | Effect::PrepareSinks { checkpoint_id }
            | Effect::Decide { checkpoint_id }
            | Effect::CommitSink { checkpoint_id, .. }
            | Effect::Complete { checkpoint_id }
            | Effect::Abort { checkpoint_id, .. }
            | Effect::Fail { checkpoint_id, .. } => *checkpoint_id,
        }
    }

    #[getter]
    fn sink(&self) -> Option<&str> {
        match &self.effect {
            Effect::CommitSink { sink, .. } => Some(sink),
            _ => None,
        }
    }

    #[getter]
    fn reason(&self) -> Option<&str> {
        match &self.effect {
            Effect::Abort { reason, .. } | Effect::Fail { reason, .. } => Some(reason),
            _ => None,
        }
    }

    fn __repr__(&self) -> String {
        let detail = self.sink().map(|sink| format!(" in {sink:?}"));
        let detail = detail.or_else(|| self.reason().map(|reason| format!(": {reason}")));
        let detail = detail.unwrap_or_default();
        format!("<CoordinatorEffect {} {}{detail}>", self.kind(), self.checkpoint_id())
    }
}

/// What an exact recovery must do, see `onceflow_core::checkpoint::recovery_plan`.
#[pyfunction]
#[pyo3(
    name = "recovery_plan",
    signature = (*, restored, decided_after, applied, replayable_to_position, unreadable = vec![])
)]
pub(crate) fn py_recovery_plan(
    restored: Option<u64>,
    decided_after: Vec<u64>,
    applied: BTreeMap<String, Option<u64>>,
    replayable_to_position: bool,
    unreadable: Vec<u64>,
) -> PyResult<PyRecoveryPlan> {
    let facts =
        RecoveryFacts { restored, decided_after, unreadable, applied, replayable_to_position };
    Ok(PyRecoveryPlan { plan: recovery_plan(&facts).map_err(to_py)? })
}

/// What an exact recovery must do.
#[pyclass(name = "RecoveryPlan", module = "onceflow._native", frozen)]
pub(crate) struct PyRecoveryPlan {
    plan: RecoveryPlan,
}

#[pymethods]
impl PyRecoveryPlan {
    #[getter]
    fn kind(&self) -> &'static str {
        match &self.plan {
            RecoveryPlan::Resume { .. } => "resume",
            RecoveryPlan::ReplaySuppressed { .. } => "replay_suppressed",
            RecoveryPlan::Stop { .. } => "stop",
        }
    }

    #[getter]
    fn roll_forward(&self) -> Vec<u64> {
        match &self.plan {
            RecoveryPlan::Resume { roll_forward, .. }
            | RecoveryPlan::ReplaySuppressed { roll_forward, .. } => roll_forward.clone(),
            RecoveryPlan::Stop { .. } => Vec::new(),
        }
    }

    #[getter]
    fn abort(&self) -> Vec<u64> {
        match &self.plan {
            RecoveryPlan::Resume { abort, .. } | RecoveryPlan::ReplaySuppressed { abort, .. } => {
                abort.clone()
            }
            RecoveryPlan::Stop { .. } => Vec::new(),
        }
    }

    #[getter]
    fn until(&self) -> Option<u64> {
        match &self.plan {
            RecoveryPlan::ReplaySuppressed { until, .. } => Some(*until),
            RecoveryPlan::Resume { .. } | RecoveryPlan::Stop { .. } => None,
        }
    }

    #[getter]
    fn reason(&self) -> Option<&str> {
        match &self.plan {
            RecoveryPlan::Stop { reason } => Some(reason),
            RecoveryPlan::Resume { .. } | RecoveryPlan::ReplaySuppressed { .. } => None,
        }
    }

    fn __repr__(&self) -> String {
        match &self.plan {
            RecoveryPlan::Resume { roll_forward, abort } => {
                format!("<RecoveryPlan resume, roll_forward={roll_forward:?}, abort={abort:?}>")
            }
            RecoveryPlan::ReplaySuppressed { roll_forward, abort, until } => format!(
                "<RecoveryPlan replay_suppressed until {until}, roll_forward={roll_forward:?}, \
                 abort={abort:?}>"
            ),
            RecoveryPlan::Stop { reason } => format!("<RecoveryPlan stop: {reason}>"),
        }
    }
}
