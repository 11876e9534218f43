//! `BarrierAligner`: the aligner of the core over Python objects.

use onceflow_core::align::{Action, Aligner, AlignerOptions, FinishedChannels, Mode};
use parking_lot::Mutex;
use pyo3::prelude::*;

use crate::args::Arg;
use crate::error::{invalid_argument, to_py};

/// Where one operator's checkpoint cuts its input, over several input channels.
///
/// Feed what arrives on each channel, in the channel's order; carry out the actions that come
/// back, in the order given. No clock, no threads, no I/O: times are arguments, in seconds, on
/// any clock that all calls share (``created_s``: that clock at the source). Safe to call from
/// several threads; each call is one step.
///
/// Whatever arrives on a blocked channel (items, newer barriers, cancels, the end) is held back
/// in order; only a cancel of the pending checkpoint itself acts at once. Ids of checkpoints
/// grow and may be skipped; of one id at most one ``trigger`` or ``abort`` is ever given.
///
/// Semantics: Apache Flink's barrier handlers; algorithm: "Lightweight Asynchronous Snapshots
/// for Distributed Dataflows" (Carbone et al., 2015).
///
/// Args:
///     channels: Number of input channels, 1 to 2**20; they are numbered from 0.
///     mode: ``"aligned"`` (a channel waits from its barrier to the last one: the cut is exact)
///         or ``"at_least_once"`` (track up to 50 checkpoints at a time, never block).
///     max_buffered_bytes: Bound of what is held back, default 64 MiB. Every event held back
///         counts its size and 64 bytes.
///     finished_channels: What the end of a channel means to a checkpoint that waits for its
///         barrier: ``"count_as_barrier"`` (rule B14) or ``"abort"`` (rule B13).
///
/// Raises:
///     ConfigurationError: An argument is none of these, a channel does not exist or has ended,
///         a time is not finite. Nothing changed.
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
        mode = Arg::of("aligned".to_owned()),
        max_buffered_bytes = Arg::of(64 << 20),
        finished_channels = Arg::of("count_as_barrier".to_owned()),
    ), text_signature = "(channels, *, mode='aligned', max_buffered_bytes=67108864, \
        finished_channels='count_as_barrier')")]
    fn new(
        channels: Arg<usize>,
        mode: Arg<String>,
        max_buffered_bytes: Arg<u64>,
        finished_channels: Arg<String>,
    ) -> PyResult<Self> {
        let channels = channels.named("channels")?;
        let max_buffered_bytes = max_buffered_bytes.named("max_buffered_bytes")?;
        let mode = match mode.named("mode")?.as_str() {
            "aligned" => Mode::Aligned,
            "at_least_once" => Mode::AtLeastOnce,
            other => {
                return Err(invalid_argument(format!(
                    "mode must be \"aligned\" or \"at_least_once\", got {other:?}"
                )));
            }
        };
        let finished_channels = match finished_channels.named("finished_channels")?.as_str() {
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

    /// An item: delivered, or held back if its channel is blocked.
    ///
    /// Raises:
    ///     CapacityExceededError: No room to hold it back; nothing changed. Ask ``is_blocked``
    ///         first and leave the item in its queue: that is what carries back-pressure on.
    #[pyo3(
        signature = (channel, item, size_bytes = Arg::of(0)),
        text_signature = "($self, channel, item, size_bytes=0)",
    )]
    fn receive(
        &self,
        channel: Arg<usize>,
        item: Py<PyAny>,
        size_bytes: Arg<u64>,
    ) -> PyResult<Vec<PyAlignerAction>> {
        let (channel, size_bytes) = (channel.named("channel")?, size_bytes.named("size_bytes")?);
        // A refused item is dropped after the lock is free: its destructor may be Python code.
        let result = self.aligner.lock().receive(channel, item, size_bytes);
        result.map(actions).map_err(|refused| to_py(refused.error))
    }

    /// A barrier, created at ``created_s``. Held back if the channel is blocked.
    #[pyo3(
        signature = (channel, checkpoint_id, *, created_s = Arg::of(0.0), now_s = Arg::of(0.0)),
        text_signature = "($self, channel, checkpoint_id, *, created_s=0.0, now_s=0.0)",
    )]
    fn barrier(
        &self,
        channel: Arg<usize>,
        checkpoint_id: Arg<u64>,
        created_s: Arg<f64>,
        now_s: Arg<f64>,
    ) -> PyResult<Vec<PyAlignerAction>> {
        let channel = channel.named("channel")?;
        let checkpoint_id = checkpoint_id.named("checkpoint_id")?;
        let (created_s, now_s) = (created_s.named("created_s")?, now_s.named("now_s")?);
        let result = self.aligner.lock().barrier(channel, checkpoint_id, created_s, now_s);
        result.map(actions).map_err(to_py)
    }

    /// A cancel marker: the sender will not take part in this checkpoint.
    #[pyo3(
        signature = (channel, checkpoint_id, *, now_s = Arg::of(0.0)),
        text_signature = "($self, channel, checkpoint_id, *, now_s=0.0)",
    )]
    fn cancel(
        &self,
        channel: Arg<usize>,
        checkpoint_id: Arg<u64>,
        now_s: Arg<f64>,
    ) -> PyResult<Vec<PyAlignerAction>> {
        let channel = channel.named("channel")?;
        let checkpoint_id = checkpoint_id.named("checkpoint_id")?;
        let now_s = now_s.named("now_s")?;
        let result = self.aligner.lock().cancel(channel, checkpoint_id, now_s);
        result.map(actions).map_err(to_py)
    }

    /// The end of a channel: nothing may follow on it.
    #[pyo3(
        signature = (channel, *, now_s = Arg::of(0.0)),
        text_signature = "($self, channel, *, now_s=0.0)",
    )]
    fn end(&self, channel: Arg<usize>, now_s: Arg<f64>) -> PyResult<Vec<PyAlignerAction>> {
        let (channel, now_s) = (channel.named("channel")?, now_s.named("now_s")?);
        let result = self.aligner.lock().end(channel, now_s);
        result.map(actions).map_err(to_py)
    }

    /// True if what comes on this channel would be held back now.
    fn is_blocked(&self, channel: Arg<usize>) -> PyResult<bool> {
        let channel = channel.named("channel")?;
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

    /// The newest checkpoint that has a barrier, waits for more, and was not aborted.
    #[getter]
    fn pending_checkpoint(&self) -> Option<u64> {
        self.aligner.lock().pending_checkpoint()
    }

    /// What is held back, as ``max_buffered_bytes`` counts it.
    #[getter]
    fn buffered_bytes(&self) -> u64 {
        self.aligner.lock().buffered_bytes()
    }
}

fn actions(actions: Vec<Action<Py<PyAny>>>) -> Vec<PyAlignerAction> {
    actions.into_iter().map(|action| PyAlignerAction { action }).collect()
}

/// What the caller must do, in order.
///
/// ``kind``: ``deliver`` (``channel``, ``item``), ``trigger`` (snapshot now, forward the barrier;
/// ``checkpoint_id``, ``start_delay_s``, ``alignment_s``, ``alignment_bytes``), ``abort``
/// (``checkpoint_id``, ``reason``: forward a cancel marker), ``end`` (all channels ended).
/// Attributes that do not belong to a kind are None or 0.
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

    /// ``subsumed`` (by a newer barrier), ``cancelled`` or ``input_ended``.
    #[getter]
    fn reason(&self) -> Option<&'static str> {
        match &self.action {
            Action::Abort { reason, .. } => Some(reason.as_str()),
            _ => None,
        }
    }

    /// From the creation of the barrier to the first one here.
    #[getter]
    fn start_delay_s(&self) -> f64 {
        match &self.action {
            Action::Trigger(trigger) => trigger.start_delay_s,
            _ => 0.0,
        }
    }

    /// From the first barrier to the last; 0 with one open channel.
    #[getter]
    fn alignment_s(&self) -> f64 {
        match &self.action {
            Action::Trigger(trigger) => trigger.alignment_s,
            _ => 0.0,
        }
    }

    /// Sizes of the items delivered between the first barrier and the last.
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
