//! `BarrierAligner`: the aligner of the core over Python objects.

use onceflow_core::align::{Action, Aligner, AlignerOptions, FinishedChannels, Mode};
use parking_lot::Mutex;
use pyo3::prelude::*;

use crate::error::{invalid_argument, to_py};

/// See `onceflow.BarrierAligner`.
#[pyclass(name = "BarrierAligner", module = "onceflow._native", frozen)]
pub(crate) struct PyBarrierAligner {
    /// Held while the core takes one step, never while Python code runs.
    aligner: Mutex<Aligner<Py<PyAny>>>,
}

#[pymethods]
impl PyBarrierAligner {
    #[new]
    #[pyo3(signature = (
        channels,
        *,
        mode = "aligned",
        max_buffered_bytes = 64 << 20,
        finished_channels = "count_as_barrier",
    ))]
    fn new(
        channels: usize,
        mode: &str,
        max_buffered_bytes: u64,
        finished_channels: &str,
    ) -> PyResult<Self> {
        let mode = match mode {
            "aligned" => Mode::Aligned,
            "at_least_once" => Mode::AtLeastOnce,
            other => {
                return Err(invalid_argument(format!(
                    "mode must be \"aligned\" or \"at_least_once\", got {other:?}"
                )));
            }
        };
        let finished_channels = match finished_channels {
            "count_as_barrier" => FinishedChannels::CountAsBarrier,
            "abort" => FinishedChannels::Abort,
            other => {
                return Err(invalid_argument(format!(
                    "finished_channels must be \"count_as_barrier\" or \"abort\", got {other:?}"
                )));
            }
        };
        let options = AlignerOptions { channels, mode, max_buffered_bytes, finished_channels };
        Ok(Self { aligner: Mutex::new(Aligner::new(options).map_err(to_py)?) })
    }

    #[pyo3(signature = (channel, item, size_bytes = 0))]
    fn receive(
        &self,
        channel: usize,
        item: Py<PyAny>,
        size_bytes: u64,
    ) -> PyResult<Vec<PyAlignerAction>> {
        // A refused item is dropped after the lock is free: its destructor may be Python code.
        let result = self.aligner.lock().receive(channel, item, size_bytes);
        result.map(actions).map_err(|refused| to_py(refused.error))
    }

    #[pyo3(signature = (channel, checkpoint_id, *, created_s = 0.0, now_s = 0.0))]
    fn barrier(
        &self,
        channel: usize,
        checkpoint_id: u64,
        created_s: f64,
        now_s: f64,
    ) -> PyResult<Vec<PyAlignerAction>> {
        let result = self.aligner.lock().barrier(channel, checkpoint_id, created_s, now_s);
        result.map(actions).map_err(to_py)
    }

    #[pyo3(signature = (channel, checkpoint_id, *, now_s = 0.0))]
    fn cancel(
        &self,
        channel: usize,
        checkpoint_id: u64,
        now_s: f64,
    ) -> PyResult<Vec<PyAlignerAction>> {
        let result = self.aligner.lock().cancel(channel, checkpoint_id, now_s);
        result.map(actions).map_err(to_py)
    }

    #[pyo3(signature = (channel, *, now_s = 0.0))]
    fn end(&self, channel: usize, now_s: f64) -> PyResult<Vec<PyAlignerAction>> {
        let result = self.aligner.lock().end(channel, now_s);
        result.map(actions).map_err(to_py)
    }

    fn is_blocked(&self, channel: usize) -> PyResult<bool> {
        let aligner = self.aligner.lock();
        let channels = aligner.channels();
        if channel < channels {
            return Ok(aligner.is_blocked(channel));
        }
        Err(invalid_argument(format!(
            "channel {channel} does not exist: this aligner has channels 0 to {}",
            channels - 1
        )))
    }

    #[getter]
    fn pending_checkpoint(&self) -> Option<u64> {
        self.aligner.lock().pending_checkpoint()
    }

    #[getter]
    fn buffered_bytes(&self) -> u64 {
        self.aligner.lock().buffered_bytes()
    }
}

fn actions(actions: Vec<Action<Py<PyAny>>>) -> Vec<PyAlignerAction> {
    actions.into_iter().map(|action| PyAlignerAction { action }).collect()
}

/// What the caller of an aligner must do.
#[pyclass(name = "AlignerAction", module = "onceflow._native", frozen)]
pub(crate) struct PyAlignerAction {
    action: Action<Py<PyAny>>,
}

#[pymethods]
impl PyAlignerAction {
    #[getter]
    fn kind(&self) -> &'static str {
        match &self.action {
            Action::Deliver { .. } => "deliver",
            Action::Trigger(_) => "trigger",
            Action::Abort { .. } => "abort",
            Action::End => "end",
        }
    }

    #[getter]
    fn channel(&self) -> Option<usize> {
        match &self.action {
            Action::Deliver { channel, .. } => Some(*channel),
            _ => None,
        }
    }

    #[getter]
    fn item(&self, py: Python<'_>) -> Py<PyAny> {
        match &self.action {
            Action::Deliver { item, .. } => item.clone_ref(py),
            _ => py.None(),
        }
    }

    #[getter]
    fn checkpoint_id(&self) -> Option<u64> {
        match &self.action {
            Action::Trigger(trigger) => Some(trigger.checkpoint_id),
            Action::Abort { checkpoint_id, .. } => Some(*checkpoint_id),
            Action::Deliver { .. } | Action::End => None,
        }
    }

    #[getter]
    fn reason(&self) -> Option<&'static str> {
        match &self.action {
            Action::Abort { reason, .. } => Some(reason.as_str()),
            _ => None,
        }
    }

    #[getter]
    fn start_delay_s(&self) -> f64 {
        match &self.action {
            Action::Trigger(trigger) => trigger.start_delay_s,
            _ => 0.0,
        }
    }

    #[getter]
    fn alignment_s(&self) -> f64 {
        match &self.action {
            Action::Trigger(trigger) => trigger.alignment_s,
            _ => 0.0,
        }
    }

    #[getter]
    fn alignment_bytes(&self) -> u64 {
        match &self.action {
            Action::Trigger(trigger) => trigger.alignment_bytes,
            _ => 0,
        }
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        Ok(match &self.action {
            Action::Deliver { channel, item } => {
                format!("<AlignerAction deliver {} from {channel}>", item.bind(py).repr()?)
            }
            Action::Trigger(trigger) => {
                format!("<AlignerAction trigger {}>", trigger.checkpoint_id)
            }
            Action::Abort { checkpoint_id, reason } => {
                format!("<AlignerAction abort {checkpoint_id}: {}>", reason.as_str())
            }
            Action::End => "<AlignerAction end>".to_owned(),
        })
    }
}
