//! Events of blocked channels, kept in order and within a bound.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use crate::{Error, ErrorKind, Result};

/// What each held-back event counts besides its size: about what the queue needs for it. Without
/// it, items of declared size 0 could grow the queue without bound.
pub const EVENT_OVERHEAD_BYTES: u64 = 64;

/// Something that came on a channel.
#[derive(Debug)]
pub(super) enum Event<T> {
    Item { item: T, size_bytes: u64 },
    Barrier { checkpoint_id: u64, created_s: f64 },
    Cancel { checkpoint_id: u64 },
    End,
}

impl<T> Event<T> {
    fn cost(&self) -> u64 {
        let size = match self {
            Self::Item { size_bytes, .. } => *size_bytes,
            Self::Barrier { .. } | Self::Cancel { .. } | Self::End => 0,
        };
        size.saturating_add(EVENT_OVERHEAD_BYTES)
    }
}

/// One queue a channel; released across channels in the order of arrival.
#[derive(Debug)]
pub(super) struct HeldBack<T> {
    queues: Vec<VecDeque<(u64, Event<T>)>>,
    /// Arrival number and channel of the front of each queue that may be released. May hold
    /// entries that are stale: of a channel that is blocked again, or fronts already taken.
    ready: BinaryHeap<Reverse<(u64, usize)>>,
    arrivals: u64,
    bytes: u64,
    max_bytes: u64,
}

impl<T> HeldBack<T> {
    pub(super) fn new(channels: usize, max_bytes: u64) -> Self {
        Self {
            queues: (0..channels).map(|_| VecDeque::new()).collect(),
            ready: BinaryHeap::new(),
            arrivals: 0,
            bytes: 0,
            max_bytes,
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Is there room for an event of this size?
    pub(super) fn check(&self, channel: usize, size_bytes: u64) -> Result<()> {
        let wanted = size_bytes.saturating_add(EVENT_OVERHEAD_BYTES);
        if self.bytes.saturating_add(wanted) <= self.max_bytes {
            return Ok(());
        }
        Err(self.full(channel, wanted))
    }

    #[cold]
    fn full(&self, channel: usize, wanted: u64) -> Error {
        Error::new(
            ErrorKind::CapacityExceeded,
            format!(
                "channel {channel} is blocked by a barrier and {} of max_buffered_bytes = {} are \
                 held back: no room for {wanted} more; leave it in the channel's queue until the \
                 channel is not blocked, or cancel the checkpoint",
                self.bytes, self.max_bytes
            ),
        )
        .with_bound(
            "max_buffered_bytes",
            self.bytes.saturating_add(wanted),
            self.max_bytes,
        )
    }

    /// Appends an event that [`Self::check`] found room for.
    pub(super) fn push(&mut self, channel: usize, event: Event<T>) {
        self.bytes = self.bytes.saturating_add(event.cost());
        self.queues[channel].push_back((self.arrivals, event));
        self.arrivals += 1;
    }

    /// Channels were unblocked: every queue may have something to release.
    pub(super) fn make_ready(&mut self) {
        self.ready.clear();
        for (channel, queue) in self.queues.iter().enumerate() {
            if let Some((arrival, _)) = queue.front() {
                self.ready.push(Reverse((*arrival, channel)));
            }
        }
    }

    /// The oldest event of a channel that is not blocked.
    pub(super) fn pop_ready(
        &mut self,
        is_blocked: impl Fn(usize) -> bool,
    ) -> Option<(usize, Event<T>)> {
        while let Some(Reverse((_, channel))) = self.ready.pop() {
            if is_blocked(channel) {
                continue; // the next make_ready finds it again
            }
            let Some((_, event)) = self.queues[channel].pop_front() else { continue };
            self.bytes -= event.cost();
            if let Some((next, _)) = self.queues[channel].front() {
                self.ready.push(Reverse((*next, channel)));
            }
            return Some((channel, event));
        }
        None
    }
}
