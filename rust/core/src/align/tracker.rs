//! The at-least-once protocol: several checkpoints at a time are counted, nothing is blocked.

use std::collections::VecDeque;

use super::FinishedChannels;
use super::action::{AbortReason, Action, FirstBarrier, Moment};

/// Checkpoints that are tracked at once. A channel that never sends its barriers would otherwise
/// make the list grow for ever; past the bound the oldest is forgotten and cannot complete.
pub const MAX_TRACKED_CHECKPOINTS: usize = 50;

/// Which barriers came, by checkpoint.
#[derive(Debug)]
pub(super) struct Tracker {
    /// Ascending ids of checkpoints that miss channels.
    tracked: VecDeque<Tracked>,
    /// The highest id that a barrier or a cancel named. Nothing at or below it starts again.
    latest: Option<u64>,
    /// Channels of which no end was processed.
    open: usize,
    channels: usize,
    finished_channels: FinishedChannels,
}

#[derive(Debug)]
struct Tracked {
    checkpoint_id: u64,
    state: State,
    /// Channels whose barrier, cancel or end came.
    seen: Vec<bool>,
    missing: usize,
}

#[derive(Debug)]
enum State {
    AwaitingBarriers(FirstBarrier),
    /// Aborted, and kept so that the rest of its barriers and cancels is recognised.
    AwaitingLeftovers,
}

impl Tracked {
    /// Counts a channel once; true if none is missing now.
    fn count(&mut self, channel: usize) -> bool {
        if !std::mem::replace(&mut self.seen[channel], true) {
            self.missing -= 1;
        }
        self.missing == 0
    }

    /// Aborts and notifies, once.
    fn abort<T>(&mut self, reason: AbortReason, actions: &mut Vec<Action<T>>) {
        if matches!(self.state, State::AwaitingBarriers(_)) {
            self.state = State::AwaitingLeftovers;
            actions.push(Action::Abort { checkpoint_id: self.checkpoint_id, reason });
        }
    }
}

impl Tracker {
    pub(super) fn new(channels: usize, finished_channels: FinishedChannels) -> Self {
        Self { tracked: VecDeque::new(), latest: None, open: channels, channels, finished_channels }
    }

    pub(super) fn pending(&self) -> Option<u64> {
        let pending = |tracked: &&Tracked| matches!(tracked.state, State::AwaitingBarriers(_));
        self.tracked.iter().rev().find(pending).map(|tracked| tracked.checkpoint_id)
    }

    pub(super) fn barrier<T>(
        &mut self,
        channel: usize,
        checkpoint_id: u64,
        created_s: f64,
        now: Moment,
        actions: &mut Vec<Action<T>>,
    ) {
        let first = FirstBarrier::new(checkpoint_id, created_s, now);
        let position = match self.position(checkpoint_id) {
            Some(position) => position,
            None if self.latest < Some(checkpoint_id) => {
                self.track(checkpoint_id, State::AwaitingBarriers(first))
            }
            None => return, // completed, dropped or never heard of: it cannot complete any more
        };
        if self.tracked[position].count(channel) {
            self.complete(position, now, actions);
        }
    }

    pub(super) fn cancel<T>(
        &mut self,
        channel: usize,
        checkpoint_id: u64,
        actions: &mut Vec<Action<T>>,
    ) {
        while self.tracked.front().is_some_and(|front| front.checkpoint_id < checkpoint_id) {
            if let Some(mut dropped) = self.tracked.pop_front() {
                dropped.abort(AbortReason::Cancelled, actions);
            }
        }
        let position = match self.position(checkpoint_id) {
            Some(position) => {
                self.tracked[position].abort(AbortReason::Cancelled, actions);
                position
            }
            None if self.latest < Some(checkpoint_id) => {
                actions.push(Action::Abort { checkpoint_id, reason: AbortReason::Cancelled });
                self.track(checkpoint_id, State::AwaitingLeftovers)
            }
            None => return,
        };
        if self.tracked[position].count(channel) {
            self.tracked.remove(position);
        }
    }

    pub(super) fn end<T>(&mut self, channel: usize, now: Moment, actions: &mut Vec<Action<T>>) {
        self.open -= 1;
        match self.finished_channels {
            FinishedChannels::Abort => {
                for mut dropped in self.tracked.drain(..) {
                    dropped.abort(AbortReason::InputEnded, actions);
                }
            }
            FinishedChannels::CountAsBarrier => {
                // Newest first: the newest that this end completes drops all before it.
                for position in (0..self.tracked.len()).rev() {
                    if self.tracked[position].count(channel) {
                        self.complete(position, now, actions);
                        return;
                    }
                }
            }
        }
    }

    fn position(&self, checkpoint_id: u64) -> Option<usize> {
        self.tracked.binary_search_by_key(&checkpoint_id, |tracked| tracked.checkpoint_id).ok()
    }

    /// Appends a checkpoint that is newer than all before; returns its position.
    fn track(&mut self, checkpoint_id: u64, state: State) -> usize {
        self.latest = Some(checkpoint_id);
        if self.tracked.len() == MAX_TRACKED_CHECKPOINTS {
            self.tracked.pop_front();
        }
        self.tracked.push_back(Tracked {
            checkpoint_id,
            state,
            seen: vec![false; self.channels],
            // Channels that ended before cannot send it.
            missing: self.open,
        });
        self.tracked.len() - 1
    }

    /// Drops this checkpoint and all before it, and triggers it unless it was aborted.
    fn complete<T>(&mut self, position: usize, now: Moment, actions: &mut Vec<Action<T>>) {
        if let Some(Tracked { state: State::AwaitingBarriers(first), .. }) =
            self.tracked.drain(..=position).next_back()
        {
            actions.push(Action::Trigger(first.trigger(now)));
        }
    }
}
