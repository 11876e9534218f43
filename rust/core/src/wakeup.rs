//! One thread waits for several things at once, and any thread wakes it: an eventfd.
//!
//! Whoever is set stays set until somebody has waited: a waiter that looks for something to do and
//! then waits misses nothing that came in between.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::{Error, ErrorKind, Result};

/// Wakes whoever waits on it.
#[derive(Debug)]
pub struct Wakeup {
    event: OwnedFd,
    pid: u32,
}

/// Why a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Woken {
    /// Somebody has set it; it is not set any more.
    Set,
    /// The time is over.
    TimedOut,
    /// A signal came.
    Interrupted,
}

impl Wakeup {
    /// Not set.
    ///
    /// # Errors
    /// `Io`: the process may open no further file.
    pub fn new() -> Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        Ok(Self { event: event.map_err(|error| failed(&error))?, pid: std::process::id() })
    }

    /// Wakes who waits, or who waits next. From any thread, and in the handler of a signal; in a
    /// forked child nothing, since who waits is its parent.
    pub fn set(&self) {
        if self.pid == std::process::id() {
            // Fails only where it has been set 2^64 - 2 times: it is set then.
            let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
        }
    }

    /// Waits until it is set, for so long at most; zero only looks.
    ///
    /// # Errors
    /// `StoreForked` in a child; `Io` if the system cannot wait.
    pub fn wait(&self, timeout: Duration) -> Result<Woken> {
        if self.pid != std::process::id() {
            let text = "a forked child cannot wait for what wakes its parent";
            return Err(Error::new(ErrorKind::StoreForked, text));
        }
        let timeout = Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        };
        match poll(&mut [PollFd::new(&self.event, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return Ok(Woken::TimedOut),
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(Woken::Interrupted),
            Err(error) => return Err(failed(&error)),
        }
        match rustix::io::read(&self.event, &mut [0; 8]) {
            // Another waiter was first.
            Err(rustix::io::Errno::AGAIN) => Ok(Woken::TimedOut),
            Err(error) => Err(failed(&error)),
            Ok(_) => Ok(Woken::Set),
        }
    }
}

fn failed(error: &rustix::io::Errno) -> Error {
    Error::new(ErrorKind::Io, format!("cannot wait for something to do: {error}"))
}
