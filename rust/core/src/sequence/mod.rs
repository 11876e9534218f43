//! Producer sequences: verdicts on batches, so that a retry counts once.
//!
//! A writer that is not sure whether its batch arrived sends it again. It makes that harmless by
//! naming the batch: a *producer id*, a *producer epoch* (its generation) and the *sequences* of
//! the first and the last record, which go on without a gap and wrap from `i32::MAX` to 0. A
//! [`Deduplicator`] remembers where each producer is and gives every batch a [`Verdict`]. It is
//! a pure state machine: no clock (`now_s` is an argument), no threads, no I/O.
//!
//! # What the two sides owe each other
//! - The writer resends a batch unchanged: the same epoch, first and last sequence. A batch that
//!   overlaps what was accepted, but is not one of the remembered batches, is refused.
//! - Only [`Verdict::Accept`] may be applied. `Duplicate` may be acknowledged, every other verdict
//!   is a refusal; nothing that was refused changes the state.
//! - The state must be rewound together with the input that it judged: restore both from the same
//!   checkpoint, or retries are judged against a past that is not theirs.
//! - A producer is forgotten by expiry only. With expiry, a writer that is silent for longer than
//!   that counts as new: then neither its old retries nor its old epochs are recognised.
//!
//! # Order
//! [`Order::Ordered`] is what Kafka's brokers do: a batch must begin right after the one before,
//! and the last `window` batches are remembered with their positions. [`Order::Unordered`] is for
//! writers whose batches overtake one another: a bitmap remembers which of the `window` sequences
//! up to the highest one were seen (the anti-replay window of RFC 6479). Anything above it is new,
//! and moves the window; a sequence that the window has left is [`Verdict::TooOld`], seen or not.
//!
//! Sequences are compared as serial numbers (RFC 1982): of two, the later one is at most 2^30
//! ahead. No batch and no window is longer than that, so an accepted sequence is never mistaken
//! for one of the next round.
//!
//! The rules S1 to S34 name what is done case by case, after Apache Kafka's
//! `ProducerStateManager` and `ProducerAppendInfo`; `rust/core/tests/sequence_rules.rs` runs them.

mod batch;
mod changes;
mod entry;
mod ordered;
mod prepared;
mod producers;
mod rules;
mod serial;
mod snapshot;
mod unordered;
mod verdict;

pub use batch::{Batch, Batches, NO_PRODUCER_ID};
pub use changes::Changes;
pub use prepared::Prepared;
pub use rules::{DedupeMode, DeduplicatorOptions, MAX_PRODUCERS, MAX_WINDOW, Order};
pub use serial::MAX_SPAN;
pub use verdict::{Verdict, VerdictCode, Verdicts};

use crate::{Error, ErrorKind, Result};
use producers::{NOWHERE, Producers};
use rules::{Decision, Rules};

/// Batches looked up together, so that their cache misses overlap instead of queueing up.
const BLOCK: usize = 32;

/// See the module.
#[derive(Debug, Clone)]
pub struct Deduplicator {
    rules: Rules,
    producers: Producers,
    /// Which state this is; a [`Prepared`] fits no other one.
    state: prepared::StateId,
}

impl Deduplicator {
    /// A deduplicator that knows no producer. `InvalidArgument` for settings that cannot be.
    pub fn new(options: DeduplicatorOptions) -> Result<Self> {
        let rules = Rules::new(options)?;
        let producers = Producers::new(rules.options().order, rules.options().window);
        Ok(Self { rules, producers, state: prepared::StateId::next() })
    }

    /// The settings.
    pub fn options(&self) -> &DeduplicatorOptions {
        self.rules.options()
    }

    /// Producers remembered (expired ones that were not removed yet count).
    pub fn len(&self) -> usize {
        self.producers.len()
    }

    /// Whether no producer is remembered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of memory held.
    pub fn memory_bytes(&self) -> usize {
        self.producers.memory_bytes()
    }

    /// Judges batches in order, each seeing those before it, and applies what was accepted.
    ///
    /// `CapacityExceeded` if that would remember more live producers than `max_producers` or
    /// `max_bytes` allow, and `InvalidArgument` for a time that is not finite: then nothing was applied.
    pub fn check_many(&mut self, batches: &Batches<'_>, now_s: f64) -> Result<Verdicts> {
        check_time(now_s)?;
        if !self.has_room_for(batches) {
            let prepared = self.prepare(batches, now_s)?;
            return self.apply(prepared);
        }
        // Nothing can fail any more, so judging and applying go together, batch by batch.
        let mut verdicts = Verdicts::accepted(batches.len());
        let ids = batches.producer_ids();
        for start in (0..ids.len()).step_by(BLOCK) {
            let block = &ids[start..ids.len().min(start + BLOCK)];
            let found = self.producers.find_block::<BLOCK>(block);
            for (slot, row) in found.into_iter().zip(start..start + block.len()) {
                let batch = batches.row(row);
                // A producer that was not there may have come with an earlier batch of the block.
                let slot = match slot {
                    NOWHERE => self.producers.find(batch.producer_id),
                    slot => Some(slot as usize),
                };
                match self.rules.judge(&self.producers, slot, &batch, now_s) {
                    Decision::Append(slot) => self.producers.append(slot, &batch, now_s),
                    Decision::Start => self.producers.start(slot, &batch, now_s),
                    Decision::Refuse(verdict) => verdicts.set(row, verdict),
                }
            }
        }
        self.state = prepared::StateId::next();
        Ok(verdicts)
    }

    /// Judges batches in order, each seeing those before it. Changes nothing: what was accepted
    /// is remembered by [`Self::apply`]. Errors as [`Self::check_many`].
    pub fn prepare(&self, batches: &Batches<'_>, now_s: f64) -> Result<Prepared> {
        check_time(now_s)?;
        Prepared::judge(&self.rules, &self.producers, self.state, batches, now_s)
    }

    /// Remembers what [`Self::prepare`] accepted.
    ///
    /// `InvalidArgument` if anything was applied, expired or restored since: prepare again.
    pub fn apply(&mut self, prepared: Prepared) -> Result<Verdicts> {
        let verdicts = prepared.apply(&self.rules, &mut self.producers, self.state)?;
        self.state = prepared::StateId::next();
        Ok(verdicts)
    }

    /// Forgets the producers from which nothing was accepted for `expiry_s`; says how many.
    pub fn expire(&mut self, now_s: f64) -> Result<usize> {
        check_time(now_s)?;
        let expired = self.producers.remove_expired(&self.rules, now_s);
        if expired > 0 {
            self.state = prepared::StateId::next();
        }
        Ok(expired)
    }

    /// Whether these batches fit below the cap, whichever of them are accepted.
    fn has_room_for(&self, batches: &Batches<'_>) -> bool {
        let room = self.rules.most_producers().saturating_sub(self.producers.len());
        let is_new = |id: &&i64| self.producers.find(**id).is_none();
        batches.len() <= room || batches.producer_ids().iter().filter(is_new).count() <= room
    }
}

fn check_time(now_s: f64) -> Result<()> {
    if now_s.is_finite() {
        return Ok(());
    }
    let text =
        format!("now_s is {now_s}: give a finite time in seconds, of a clock that never jumps");
    Err(Error::new(ErrorKind::InvalidArgument, text))
}
