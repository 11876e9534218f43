//! `WakeHandle`: one thread waits for several things at once.

use std::sync::Arc;
use std::time::Instant;

use onceflow_core::wakeup::{Wakeup, Woken};
use pyo3::prelude::*;

use crate::args::Arg;
use crate::error::to_py;
use crate::log_args::seconds;

/// One thread waits for several things at once, and any thread wakes it.
///
/// Once set it stays set until somebody has waited, so whoever looks for something to do and then
/// waits misses nothing that came in between. It has no end: it goes with the last reference.
///
/// Raises:
///     StoreIOError: The process may open no further file.
#[pyclass(name = "WakeHandle", module = "onceflow._native", frozen)]
pub(crate) struct PyWakeHandle {
    pub(crate) wakeup: Arc<Wakeup>,
}

#[pymethods]
impl PyWakeHandle {
    #[new]
    fn new() -> PyResult<Self> {
        Ok(Self { wakeup: Arc::new(Wakeup::new().map_err(to_py)?) })
    }

    /// Wakes who waits, or who waits next.
    ///
    /// From any thread, and in the handler of a signal; never blocks, never fails. In a child that was forked off since
    /// nothing happens.
    fn set(&self) {
        self.wakeup.set();
    }

    /// Waits until it is set, for so many seconds at most; true if it was set, and is not any more.
    ///
    /// Handlers of signals run meanwhile.
    ///
    /// Raises:
    ///     ConfigurationError: A timeout below 0, or no number.
    ///     StoreForkedError: In a child that was forked off since.
    fn wait(&self, py: Python<'_>, timeout_s: Arg<f64>) -> PyResult<bool> {
        let timeout = seconds("timeout_s", timeout_s.named("timeout_s")?)?;
        let start = Instant::now();
        loop {
            py.check_signals()?;
            let left = timeout.saturating_sub(start.elapsed());
            match py.detach(|| self.wakeup.wait(left)).map_err(to_py)? {
                Woken::Set => return Ok(true),
                Woken::TimedOut => return Ok(false),
                Woken::Interrupted => {}
            }
        }
    }
}
