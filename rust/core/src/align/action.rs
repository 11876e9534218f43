//! What an aligner tells its caller to do.

use crate::Error;

/// What the caller must do, in the order given.
#[derive(Debug, Clone, PartialEq)]
pub enum Action<T> {
    /// Process this item.
    Deliver {
        /// Where it came from.
        channel: usize,
        /// What was received.
        item: T,
    },
    /// Take the snapshot now, before any later action, and forward the barrier.
    Trigger(Trigger),
    /// Give this checkpoint up and forward a cancel marker.
    Abort {
        /// The checkpoint: for a cancel of a later one than the pending, that later one.
        checkpoint_id: u64,
        /// Why.
        reason: AbortReason,
    },
    /// All channels have ended and everything was delivered.
    End,
}

/// A checkpoint whose barriers are all there, and what waiting for them took.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Trigger {
    /// The checkpoint.
    pub checkpoint_id: u64,
    /// From the barrier's creation at the source to the first barrier here, in seconds.
    pub start_delay_s: f64,
    /// From the first to the last barrier, in seconds; 0 with one open channel.
    pub alignment_s: f64,
    /// Bytes of the items delivered between the first and the last barrier.
    pub alignment_bytes: u64,
}

/// Why a checkpoint was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AbortReason {
    /// A barrier of a newer checkpoint came first.
    Subsumed,
    /// A cancel marker came.
    Cancelled,
    /// A channel ended, and ends do not count as barriers.
    InputEnded,
}

impl AbortReason {
    /// The stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Subsumed => "subsumed",
            Self::Cancelled => "cancelled",
            Self::InputEnded => "input_ended",
        }
    }
}

/// An item that was not accepted, and why. Nothing changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{error}")]
pub struct Refused<T> {
    /// The item, back in the caller's hands.
    pub item: T,
    /// Why.
    pub error: Error,
}

/// When an event is processed, on the two scales that an alignment is measured on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    pub(super) now_s: f64,
    pub(super) delivered_bytes: u64,
}

/// The first barrier of a checkpoint: what its [`Trigger`] is measured from.
#[derive(Debug, Clone, Copy)]
pub(super) struct FirstBarrier {
    checkpoint_id: u64,
    start_delay_s: f64,
    at: Moment,
}

impl FirstBarrier {
    pub(super) fn new(checkpoint_id: u64, created_s: f64, at: Moment) -> Self {
        Self { checkpoint_id, start_delay_s: (at.now_s - created_s).max(0.0), at }
    }

    pub(super) fn checkpoint_id(&self) -> u64 {
        self.checkpoint_id
    }

    /// The trigger, if the last barrier came `now`. A clock that was set back counts as no time.
    pub(super) fn trigger(&self, now: Moment) -> Trigger {
        Trigger {
            checkpoint_id: self.checkpoint_id,
            start_delay_s: self.start_delay_s,
            alignment_s: (now.now_s - self.at.now_s).max(0.0),
            alignment_bytes: now.delivered_bytes - self.at.delivered_bytes,
        }
    }
}
