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
    actions.into_iter().map(PyAlignerAction::from).collect()
}

/// What the caller must do, in order.
#[pyclass(name = "AlignerAction", module = "onceflow._native", frozen)]
pub(crate) enum PyAlignerAction {
    /// Process this item.
    Deliver { channel: usize, item: Py<PyAny> },
    /// Take the snapshot now, before any later action, and forward the barrier.
    ///
    /// ``start_delay_s``: from the creation of the barrier to the first one here. ``alignment_s``: from the first
    /// barrier to the last; 0 with one open channel. ``alignment_bytes``: sizes of the items delivered meanwhile.
    Trigger { checkpoint_id: u64, start_delay_s: f64, alignment_s: f64, alignment_bytes: u64 },
    /// Give this checkpoint up and forward a cancel marker.
    ///
    /// ``reason``: ``"subsumed"`` (by a newer barrier), ``"cancelled"`` or ``"input_ended"``.
    Abort { checkpoint_id: u64, reason: String },
    /// All channels have ended and everything was delivered.
    End(),
}

impl From<Action<Py<PyAny>>> for PyAlignerAction {
    fn from(action: Action<Py<PyAny>>) -> Self {
        match action {
            Action::Deliver { channel, item } => Self::Deliver { channel, item },
            Action::Trigger(trigger) => Self::Trigger {
                checkpoint_id: trigger.checkpoint_id,
                start_delay_s: trigger.start_delay_s,
                alignment_s: trigger.alignment_s,
                alignment_bytes: trigger.alignment_bytes,
            },
            Action::Abort { checkpoint_id, reason } => {
                Self::Abort { checkpoint_id, reason: reason.as_str().to_owned() }
            }
            Action::End => Self::End(),
        }
    }
}

#[pymethods]
impl PyAlignerAction {
    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        Ok(match self {
            Self::Deliver { channel, item } => {
                format!("AlignerAction.Deliver(channel={channel}, item={})", item.bind(py).repr()?)
            }
            Self::Trigger { checkpoint_id, .. } => {
                format!("AlignerAction.Trigger(checkpoint_id={checkpoint_id})")
            }
            Self::Abort { checkpoint_id, reason } => {
                format!("AlignerAction.Abort(checkpoint_id={checkpoint_id}, reason={reason:?})")
            }
            Self::End() => "AlignerAction.End()".to_owned(),
        })
    }
}
