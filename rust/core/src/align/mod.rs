//! Barrier alignment over several input channels: where one operator's checkpoint cuts its input.
//!
//! A source puts a *barrier* with a checkpoint id between its records; every operator forwards
//! it. An operator with several input channels sees the barrier of one checkpoint at different
//! moments. Its snapshot is consistent with its neighbours' only if it contains the effect of
//! every record before the barrier, on every channel, and of none after it. [`Aligner`] makes
//! that true by holding back a channel from its barrier until the last channel's barrier came
//! ([`Mode::Aligned`]), or only counts barriers ([`Mode::AtLeastOnce`]): then nothing waits,
//! and after a recovery the records that overtook a barrier are processed a second time.
//!
//! The caller feeds what arrives on a channel, in the channel's order, and carries out the
//! [`Action`]s, in the order given. The aligner is a pure state machine: no clock (times are
//! arguments), no threads, no I/O; the same calls give the same actions.
//!
//! # What the two sides owe each other
//! - Channels are FIFO, and each ends with [`Aligner::end`]. A channel that falls silent without
//!   an end keeps the others blocked; whoever watches it sends a cancel or an end.
//! - Whatever arrives on a blocked channel (items, newer barriers, cancels, the end) is held
//!   back behind what is held back already, so that one channel's order is never changed. One
//!   exception: a cancel of the pending checkpoint itself acts at once, since it only frees.
//! - Held-back events are bounded in bytes. Past the bound the event is refused and handed back;
//!   the caller leaves it in its queue, which is what carries back-pressure upstream.
//! - Ids grow; ids may be skipped. Of one id at most one trigger or abort is ever given. There
//!   may be none: a checkpoint that a cancel of a later one drops (rule B8) or, in
//!   [`Mode::AtLeastOnce`], one that a completed later one overtook (rule B24) just disappears.
//!
//! Semantics follow Apache Flink's barrier handlers, case by case, as the rules B1 to B26 name
//! them; the algorithm is "Lightweight Asynchronous Snapshots for Distributed Dataflows"
//! (Carbone et al., 2015).

mod action;
mod alignment;
mod held_back;
mod tracker;

pub use action::{AbortReason, Action, Refused, Trigger};
pub use held_back::EVENT_OVERHEAD_BYTES;
pub use tracker::MAX_TRACKED_CHECKPOINTS;

use crate::{Error, ErrorKind, Result};
use action::Moment;
use alignment::Alignment;
use held_back::{Event, HeldBack};
use tracker::Tracker;

/// Most channels of one aligner: it keeps a queue for each.
pub const MAX_CHANNELS: usize = 1 << 20;

/// What happens to a channel between its barrier and the last channel's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Its records wait: the cut is exact.
    Aligned,
    /// Its records pass: nothing is ever blocked, and recovery repeats some.
    AtLeastOnce,
}

/// What the end of a channel means to a checkpoint that waits for its barrier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishedChannels {
    /// It counts as the barrier: nothing can follow it (rule B14).
    CountAsBarrier,
    /// The checkpoint is aborted (rule B13).
    Abort,
}

/// The settings of an [`Aligner`].
#[derive(Debug, Clone, Copy)]
pub struct AlignerOptions {
    /// Number of input channels, at least 1; they are numbered from 0.
    pub channels: usize,
    /// Block or only track.
    pub mode: Mode,
    /// Bound of everything held back, in bytes: the sizes given, and [`EVENT_OVERHEAD_BYTES`]
    /// for each event.
    pub max_buffered_bytes: u64,
    /// What an end means during an alignment.
    pub finished_channels: FinishedChannels,
}

impl AlignerOptions {
    /// Aligned, ends count as barriers, at most 64 MiB held back.
    pub fn new(channels: usize) -> Self {
        Self {
            channels,
            mode: Mode::Aligned,
            max_buffered_bytes: 64 << 20,
            finished_channels: FinishedChannels::CountAsBarrier,
        }
    }
}

/// See the module. `T` is whatever a channel carries; the aligner only passes it on.
#[derive(Debug)]
pub struct Aligner<T> {
    protocol: Protocol,
    held_back: HeldBack<T>,
    /// Channels whose end was received, maybe still held back: they take nothing more.
    ended: Vec<bool>,
    /// Channels whose end was not processed yet.
    open: usize,
    /// Bytes of all items delivered so far; alignments measure against it.
    delivered_bytes: u64,
}

#[derive(Debug)]
enum Protocol {
    Aligned(Alignment),
    AtLeastOnce(Tracker),
}

impl<T> Aligner<T> {
    /// An aligner before its first event. `InvalidArgument` without a channel.
    pub fn new(options: AlignerOptions) -> Result<Self> {
        let AlignerOptions { channels, mode, max_buffered_bytes, finished_channels } = options;
        if !(1..=MAX_CHANNELS).contains(&channels) {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("an aligner has 1 to {MAX_CHANNELS} channels, got {channels}"),
            ));
        }
        let protocol = match mode {
            Mode::Aligned => Protocol::Aligned(Alignment::new(channels, finished_channels)),
            Mode::AtLeastOnce => Protocol::AtLeastOnce(Tracker::new(channels, finished_channels)),
        };
        Ok(Self {
            protocol,
            held_back: HeldBack::new(channels, max_buffered_bytes),
            ended: vec![false; channels],
            open: channels,
            delivered_bytes: 0,
        })
    }

    /// An item: delivered, or held back if its channel is blocked.
    ///
    /// `CapacityExceeded` past the bound: the item comes back in [`Refused`], nothing changed.
    pub fn receive(
        &mut self,
        channel: usize,
        item: T,
        size_bytes: u64,
    ) -> std::result::Result<Vec<Action<T>>, Refused<T>> {
        if let Err(error) = self.check_channel(channel) {
            return Err(Refused { item, error });
        }
        if self.is_blocked(channel) {
            if let Err(error) = self.held_back.check(channel, size_bytes) {
                return Err(Refused { item, error });
            }
            self.held_back.push(channel, Event::Item { item, size_bytes });
            return Ok(Vec::new());
        }
        self.delivered_bytes = self.delivered_bytes.saturating_add(size_bytes);
        Ok(vec![Action::Deliver { channel, item }])
    }

    /// A barrier that was created at `created_s` on the clock of `now_s`, both in seconds.
    pub fn barrier(
        &mut self,
        channel: usize,
        checkpoint_id: u64,
        created_s: f64,
        now_s: f64,
    ) -> Result<Vec<Action<T>>> {
        check_time("created_s", created_s)?;
        self.accept(channel, Event::Barrier { checkpoint_id, created_s }, now_s)
    }

    /// A cancel marker: the sender will not take part in this checkpoint.
    pub fn cancel(
        &mut self,
        channel: usize,
        checkpoint_id: u64,
        now_s: f64,
    ) -> Result<Vec<Action<T>>> {
        self.check_channel(channel)?;
        check_time("now_s", now_s)?;
        let overtakes = match &self.protocol {
            Protocol::Aligned(alignment) => alignment.pending() == Some(checkpoint_id),
            Protocol::AtLeastOnce(_) => false,
        };
        if !overtakes {
            return self.accept(channel, Event::Cancel { checkpoint_id }, now_s);
        }
        let mut actions = Vec::new();
        self.process(channel, Event::Cancel { checkpoint_id }, now_s, &mut actions);
        self.release(now_s, &mut actions);
        Ok(actions)
    }

    /// The end of a channel: nothing follows on it. After the last one, [`Action::End`].
    pub fn end(&mut self, channel: usize, now_s: f64) -> Result<Vec<Action<T>>> {
        let actions = self.accept(channel, Event::End, now_s)?;
        self.ended[channel] = true;
        Ok(actions)
    }

    /// True if events of this channel are held back now (false for a channel that does not exist).
    pub fn is_blocked(&self, channel: usize) -> bool {
        match &self.protocol {
            Protocol::Aligned(alignment) => alignment.is_blocked(channel),
            Protocol::AtLeastOnce(_) => false,
        }
    }

    /// The newest checkpoint that has a barrier, waits for more, and was not aborted.
    pub fn pending_checkpoint(&self) -> Option<u64> {
        match &self.protocol {
            Protocol::Aligned(alignment) => alignment.pending(),
            Protocol::AtLeastOnce(tracker) => tracker.pending(),
        }
    }

    /// Bytes held back now, as `max_buffered_bytes` counts them.
    pub fn buffered_bytes(&self) -> u64 {
        self.held_back.bytes()
    }

    /// Number of channels.
    pub fn channels(&self) -> usize {
        self.ended.len()
    }

    /// A barrier, cancel or end: into the queue of a blocked channel, else processed.
    fn accept(&mut self, channel: usize, event: Event<T>, now_s: f64) -> Result<Vec<Action<T>>> {
        self.check_channel(channel)?;
        check_time("now_s", now_s)?;
        let mut actions = Vec::new();
        if self.is_blocked(channel) {
            self.held_back.check(channel, 0)?;
            self.held_back.push(channel, event);
        } else {
            self.process(channel, event, now_s, &mut actions);
            self.release(now_s, &mut actions);
        }
        Ok(actions)
    }

    fn process(
        &mut self,
        channel: usize,
        event: Event<T>,
        now_s: f64,
        actions: &mut Vec<Action<T>>,
    ) {
        let now = Moment { now_s, delivered_bytes: self.delivered_bytes };
        match event {
            Event::Item { item, size_bytes } => {
                self.delivered_bytes = self.delivered_bytes.saturating_add(size_bytes);
                actions.push(Action::Deliver { channel, item });
            }
            Event::Barrier { checkpoint_id, created_s } => match &mut self.protocol {
                Protocol::Aligned(alignment) => {
                    alignment.barrier(channel, checkpoint_id, created_s, now, actions);
                }
                Protocol::AtLeastOnce(tracker) => {
                    tracker.barrier(channel, checkpoint_id, created_s, now, actions);
                }
            },
            Event::Cancel { checkpoint_id } => match &mut self.protocol {
                Protocol::Aligned(alignment) => alignment.cancel(checkpoint_id, actions),
                Protocol::AtLeastOnce(tracker) => tracker.cancel(channel, checkpoint_id, actions),
            },
            Event::End => {
                self.open -= 1;
                match &mut self.protocol {
                    Protocol::Aligned(alignment) => alignment.end(channel, now, actions),
                    Protocol::AtLeastOnce(tracker) => tracker.end(channel, now, actions),
                }
                if self.open == 0 {
                    actions.push(Action::End);
                }
            }
        }
    }

    /// Processes what is held back on channels that are not blocked any more, oldest first,
    /// until every channel is blocked or empty.
    fn release(&mut self, now_s: f64, actions: &mut Vec<Action<T>>) {
        while let Protocol::Aligned(alignment) = &mut self.protocol {
            if alignment.take_released() {
                self.held_back.make_ready();
            }
            let next = self.held_back.pop_ready(|channel| alignment.is_blocked(channel));
            let Some((channel, event)) = next else { break };
            self.process(channel, event, now_s, actions);
        }
    }

    fn check_channel(&self, channel: usize) -> Result<()> {
        match self.ended.get(channel) {
            Some(false) => Ok(()),
            Some(true) => Err(Error::new(
                ErrorKind::InvalidArgument,
                format!(
                    "channel {channel} has ended: nothing may follow its end; a channel that \
                     starts again needs a new aligner"
                ),
            )),
            None => Err(Error::new(
                ErrorKind::InvalidArgument,
                format!(
                    "channel {channel} does not exist: this aligner has channels 0 to {}",
                    self.ended.len() - 1
                ),
            )),
        }
    }
}

fn check_time(name: &str, seconds: f64) -> Result<()> {
    if seconds.is_finite() {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::InvalidArgument,
        format!("{name} must be a finite number of seconds, got {seconds}"),
    ))
}
