//! The settings, and the rules that do not depend on the kind of window.

use super::producers::{FIXED_BYTES, Producers};
use super::{Batch, Verdict};
use crate::{Error, ErrorKind, Result};

/// The longest window: beyond it, entries would be too large to be written at each checkpoint.
pub const MAX_WINDOW: usize = 1 << 20;

/// The highest cap on producers: slots are numbered with 32 bits, one of which marks "none".
pub const MAX_PRODUCERS: usize = u32::MAX as usize - 1;

/// What is asked of a producer that is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DedupeMode {
    /// It must begin at sequence 0: nothing can have been lost before.
    Strict,
    /// It may begin anywhere, as with Kafka's brokers (rule S2).
    Compatible,
}

/// In which order a producer's batches come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// In order; the window counts batches.
    Ordered,
    /// They overtake one another; the window counts sequences.
    Unordered,
}

/// The settings of a [`super::Deduplicator`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DeduplicatorOptions {
    /// Whether an unknown producer may begin anywhere.
    pub mode: DedupeMode,
    /// Kind of window.
    pub order: Order,
    /// Batches ([`Order::Ordered`]) or sequences ([`Order::Unordered`]) remembered of each
    /// producer: 1 to [`MAX_WINDOW`].
    pub window: usize,
    /// Producers remembered at most: 1 to [`MAX_PRODUCERS`].
    pub max_producers: usize,
    /// Memory taken at most; with `window` it says how many producers that are.
    pub max_bytes: usize,
    /// A producer from which nothing was accepted for so long counts as unknown. `None`: never.
    pub expiry_s: Option<f64>,
}

impl Default for DeduplicatorOptions {
    /// Strict, in order, five batches (what a Kafka producer may have in flight), a million
    /// producers in at most 1 GiB, no expiry.
    fn default() -> Self {
        Self {
            mode: DedupeMode::Strict,
            order: Order::Ordered,
            window: 5,
            max_producers: 1_000_000,
            max_bytes: 1 << 30,
            expiry_s: None,
        }
    }
}

/// Options that were checked.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    options: DeduplicatorOptions,
    /// `expiry_s`, or infinity.
    expiry_s: f64,
    /// Producers that `max_bytes` holds.
    most_by_bytes: usize,
}

/// What is to be done with a batch.
#[derive(Debug)]
pub(super) enum Decision {
    /// Accepted: it goes on from what this slot remembers.
    Append(usize),
    /// Accepted: nothing that is remembered of the producer counts any more.
    Start,
    /// Not accepted.
    Refuse(Verdict),
}

impl Rules {
    pub(super) fn new(options: DeduplicatorOptions) -> Result<Self> {
        let check_range = |name: &'static str, value: usize, largest: usize| {
            if (1..=largest).contains(&value) {
                return Ok(());
            }
            let text = format!("{name} is {value}: give a number from 1 to {largest}");
            Err(Error::new(ErrorKind::InvalidArgument, text).with_argument(name))
        };
        check_range("window", options.window, MAX_WINDOW)?;
        check_range("max_producers", options.max_producers, MAX_PRODUCERS)?;
        let expiry_s = options.expiry_s.unwrap_or(f64::INFINITY);
        if options.expiry_s.is_some() && !(expiry_s.is_finite() && expiry_s > 0.0) {
            let text = format!(
                "expiry_s is {expiry_s}: give a number of seconds above 0, or none so that \
                 producers never expire"
            );
            return Err(Error::new(ErrorKind::InvalidArgument, text).with_argument("expiry_s"));
        }
        let bytes_of_one = Producers::bytes_of_one(options.order, options.window);
        let most_by_bytes = options.max_bytes.saturating_sub(FIXED_BYTES) / bytes_of_one;
        if most_by_bytes == 0 {
            let text = format!(
                "max_bytes is {}, and one producer with a window of {} takes up to {}: raise it, or \
                 give a shorter window",
                options.max_bytes,
                options.window,
                FIXED_BYTES + bytes_of_one
            );
            return Err(Error::new(ErrorKind::InvalidArgument, text).with_argument("max_bytes"));
        }
        Ok(Self { options, expiry_s, most_by_bytes })
    }

    /// Producers remembered at most, by both bounds.
    pub(super) fn most_producers(&self) -> usize {
        self.options.max_producers.min(self.most_by_bytes)
    }

    /// The bound that says so, for messages.
    pub(super) fn bound(&self) -> String {
        let DeduplicatorOptions { max_producers, max_bytes, window, .. } = self.options;
        if max_producers <= self.most_by_bytes {
            return format!("the max_producers = {max_producers}");
        }
        format!(
            "the {} with a window of {window} that max_bytes = {max_bytes} holds",
            self.most_by_bytes
        )
    }

    /// The error of more producers than the bound.
    pub(super) fn too_many(&self, text: String, producers: usize) -> Error {
        let DeduplicatorOptions { max_producers, .. } = self.options;
        let setting =
            if max_producers <= self.most_by_bytes { "max_producers" } else { "max_bytes" };
        Error::new(ErrorKind::CapacityExceeded, text).with_bound(
            setting,
            producers as u64,
            self.most_producers() as u64,
        )
    }

    pub(super) fn options(&self) -> &DeduplicatorOptions {
        &self.options
    }

    /// Whether a producer that was last accepted then has expired by now.
    #[inline]
    pub(super) fn is_expired(&self, last_accepted_s: f64, now_s: f64) -> bool {
        now_s - last_accepted_s >= self.expiry_s
    }

    /// Judges a batch; `slot` is where `producers` remembers its producer, if at all.
    #[inline]
    pub(super) fn judge(
        &self,
        producers: &Producers,
        slot: Option<usize>,
        batch: &Batch,
        now_s: f64,
    ) -> Decision {
        let known = slot.map(|slot| (slot, producers.header(slot)));
        let live = known.filter(|(_, header)| !self.is_expired(header.last_accepted_s, now_s));
        let Some((slot, header)) = live else {
            let anywhere = self.options.mode == DedupeMode::Compatible;
            return self.start(anywhere, batch);
        };
        if batch.producer_epoch == header.epoch {
            match producers.judge_sequence(slot, batch) {
                Verdict::Accept => Decision::Append(slot),
                refusal => Decision::Refuse(refusal),
            }
        } else if batch.producer_epoch < header.epoch {
            Decision::Refuse(Verdict::Fenced { current_epoch: header.epoch })
        } else {
            self.start(false, batch)
        }
    }

    /// The first batch of a producer or of an epoch.
    fn start(&self, anywhere: bool, batch: &Batch) -> Decision {
        let begins = match self.options.order {
            Order::Ordered => batch.first_sequence == 0,
            // The batches of the beginning may overtake one another too.
            Order::Unordered => (batch.first_sequence as usize) < self.options.window,
        };
        if begins || anywhere {
            Decision::Start
        } else {
            Decision::Refuse(Verdict::Gap { expected: 0 })
        }
    }
}
