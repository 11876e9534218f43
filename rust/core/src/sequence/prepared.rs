//! Verdicts that were given but not applied.

use std::sync::atomic::{AtomicU64, Ordering};

use super::producers::Producers;
use super::rules::{Decision, Rules};
use super::{Batches, Verdicts};
use crate::{Error, ErrorKind, Result};

/// One state of one deduplicator. Unique in the process, so that verdicts prepared by one
/// deduplicator are not applied to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StateId(u64);

impl StateId {
    pub(super) fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// Verdicts on the batches of one call, and the state that they lead to.
#[derive(Debug)]
pub struct Prepared {
    verdicts: Verdicts,
    /// The producers of which something was accepted, as they will be.
    after: Producers,
    /// The state that the verdicts hold for.
    state: StateId,
    now_s: f64,
    /// Whether expired producers must go to make room.
    evict_expired: bool,
}

impl Prepared {
    pub(super) fn judge(
        rules: &Rules,
        producers: &Producers,
        state: StateId,
        batches: &Batches<'_>,
        now_s: f64,
    ) -> Result<Self> {
        let options = rules.options();
        let mut after = Producers::new(options.order, options.window);
        let mut verdicts = Verdicts::accepted(batches.len());
        let mut new_producers = 0;
        for row in 0..batches.len() {
            let batch = batches.row(row);
            let changed = after.find(batch.producer_id);
            let before = match changed {
                Some(_) => None,
                None => producers.find(batch.producer_id),
            };
            let decision = match changed {
                Some(_) => rules.judge(&after, changed, &batch, now_s),
                None => rules.judge(producers, before, &batch, now_s),
            };
            if let Decision::Refuse(verdict) = decision {
                verdicts.set(row, verdict);
                continue;
            }
            let slot = changed.or_else(|| before.map(|slot| after.copy_from(producers, slot)));
            match (decision, slot) {
                (Decision::Append(_), Some(slot)) => after.append(slot, &batch, now_s),
                _ => {
                    new_producers += usize::from(slot.is_none());
                    after.start(slot, &batch, now_s);
                }
            }
        }
        let room = rules.most_producers().saturating_sub(producers.len());
        let evict_expired = new_producers > room;
        if evict_expired {
            check_room_after_expiry(rules, producers, &after, new_producers, now_s)?;
        }
        Ok(Self { verdicts, after, state, now_s, evict_expired })
    }

    /// The verdicts.
    pub fn verdicts(&self) -> &Verdicts {
        &self.verdicts
    }

    pub(super) fn apply(
        self,
        rules: &Rules,
        producers: &mut Producers,
        state: StateId,
    ) -> Result<Verdicts> {
        if self.state != state {
            let text = "these verdicts were prepared for another state: batches were applied, \
                        expired or restored since (or this is another deduplicator); prepare them \
                        again";
            return Err(Error::new(ErrorKind::InvalidArgument, text));
        }
        if self.evict_expired {
            producers.remove_expired(rules, self.now_s);
        }
        for slot in 0..self.after.len() {
            producers.copy_from(&self.after, slot);
        }
        Ok(self.verdicts)
    }
}

fn check_room_after_expiry(
    rules: &Rules,
    producers: &Producers,
    after: &Producers,
    new_producers: usize,
    now_s: f64,
) -> Result<()> {
    let is_expired = |last_accepted_s| rules.is_expired(last_accepted_s, now_s);
    let live = producers.headers().iter().filter(|header| {
        !is_expired(header.last_accepted_s) || after.find(header.producer_id).is_some()
    });
    let live = live.count();
    if live + new_producers <= rules.most_producers() {
        return Ok(());
    }
    let text = format!(
        "{new_producers} new producers besides {live} live ones would be more than {}: raise it, or \
         set expiry_s so that silent producers make room. Nothing was applied",
        rules.bound()
    );
    Err(rules.too_many(text, live + new_producers))
}
