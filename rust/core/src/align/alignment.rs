//! The aligned protocol: one checkpoint at a time, each channel blocked from its barrier on.

use super::FinishedChannels;
use super::action::{AbortReason, Action, FirstBarrier, Moment};

/// Which barriers came, and which channels they block.
#[derive(Debug)]
pub(super) struct Alignment {
    state: State,
    /// The highest id that a barrier or a cancel named. Nothing at or below it starts again.
    latest: Option<u64>,
    /// Channels of which no end was processed.
    open: usize,
    blocked: Vec<bool>,
    /// Channels were unblocked since the caller last asked.
    released: bool,
    finished_channels: FinishedChannels,
}

#[derive(Debug)]
enum State {
    AwaitingFirstBarrier,
    AwaitingBarriers {
        first: FirstBarrier,
        /// Channels whose barrier or end came.
        aligned: Vec<bool>,
        missing: usize,
    },
}

impl Alignment {
    pub(super) fn new(channels: usize, finished_channels: FinishedChannels) -> Self {
        Self {
            state: State::AwaitingFirstBarrier,
            latest: None,
            open: channels,
            blocked: vec![false; channels],
            released: false,
            finished_channels,
        }
    }

    pub(super) fn is_blocked(&self, channel: usize) -> bool {
        self.blocked.get(channel).copied().unwrap_or(false)
    }

    pub(super) fn pending(&self) -> Option<u64> {
        match &self.state {
            State::AwaitingFirstBarrier => None,
            State::AwaitingBarriers { first, .. } => Some(first.checkpoint_id()),
        }
    }

    /// True once after channels were unblocked.
    pub(super) fn take_released(&mut self) -> bool {
        std::mem::take(&mut self.released)
    }

    /// A barrier on a channel that is not blocked.
    pub(super) fn barrier<T>(
        &mut self,
        channel: usize,
        checkpoint_id: u64,
        created_s: f64,
        now: Moment,
        actions: &mut Vec<Action<T>>,
    ) {
        let pending = self.pending();
        if pending != Some(checkpoint_id) {
            // Of a checkpoint that is over, or that a newer one replaced: the channel goes on.
            if self.latest >= Some(checkpoint_id) {
                return;
            }
            if let Some(subsumed) = pending {
                self.abort(subsumed, AbortReason::Subsumed, actions);
            }
            self.latest = Some(checkpoint_id);
            self.state = State::AwaitingBarriers {
                first: FirstBarrier::new(checkpoint_id, created_s, now),
                aligned: vec![false; self.blocked.len()],
                // Channels that ended before cannot send it.
                missing: self.open,
            };
        }
        self.blocked[channel] = true;
        self.align(channel, now, actions);
    }

    pub(super) fn cancel<T>(&mut self, checkpoint_id: u64, actions: &mut Vec<Action<T>>) {
        let pending = self.pending() == Some(checkpoint_id);
        if pending || self.latest < Some(checkpoint_id) {
            // A pending checkpoint of a lower id is dropped without a notice of its own: who
            // hears of the later one knows that the earlier cannot complete either.
            self.latest = Some(checkpoint_id);
            self.abort(checkpoint_id, AbortReason::Cancelled, actions);
        }
    }

    /// The end of a channel that is not blocked.
    pub(super) fn end<T>(&mut self, channel: usize, now: Moment, actions: &mut Vec<Action<T>>) {
        self.open -= 1;
        match (self.pending(), self.finished_channels) {
            (None, _) => {}
            (Some(_), FinishedChannels::CountAsBarrier) => self.align(channel, now, actions),
            (Some(pending), FinishedChannels::Abort) => {
                self.abort(pending, AbortReason::InputEnded, actions);
            }
        }
    }

    /// Counts a channel once, and triggers when it was the last.
    fn align<T>(&mut self, channel: usize, now: Moment, actions: &mut Vec<Action<T>>) {
        let State::AwaitingBarriers { first, aligned, missing } = &mut self.state else { return };
        if std::mem::replace(&mut aligned[channel], true) {
            return;
        }
        *missing -= 1;
        if *missing == 0 {
            actions.push(Action::Trigger(first.trigger(now)));
            self.unblock();
        }
    }

    fn abort<T>(&mut self, checkpoint_id: u64, reason: AbortReason, actions: &mut Vec<Action<T>>) {
        actions.push(Action::Abort { checkpoint_id, reason });
        self.unblock();
    }

    fn unblock(&mut self) {
        self.state = State::AwaitingFirstBarrier;
        self.blocked.fill(false);
        self.released = true;
    }
}
