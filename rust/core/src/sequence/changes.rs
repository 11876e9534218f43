//! Which producers changed since the last cut, as rows of a table.

use super::producers::Producers;
use super::{Deduplicator, entry, prepared};
use crate::Result;

/// What a checkpoint must write: entries to put, and producers to delete.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    producer_ids: Vec<i64>,
    offsets: Vec<u64>,
    data: Vec<u8>,
    removed: Vec<i64>,
}

impl Changes {
    /// Producers that changed, in no particular order.
    pub fn producer_ids(&self) -> &[i64] {
        &self.producer_ids
    }

    /// Entry `i` is `data[offsets[i]..offsets[i + 1]]`.
    pub fn offsets(&self) -> &[u64] {
        &self.offsets
    }

    /// The entries' bytes, one after the other.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// The entry of `producer_ids()[row]`.
    pub fn entry(&self, row: usize) -> &[u8] {
        &self.data[self.offsets[row] as usize..self.offsets[row + 1] as usize]
    }

    /// Producers that were forgotten.
    pub fn removed(&self) -> &[i64] {
        &self.removed
    }

    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.producer_ids.is_empty() && self.removed.is_empty()
    }
}

impl Deduplicator {
    /// What changed since [`Self::mark_clean`] was called last (or since the start).
    pub fn changes(&self) -> Changes {
        let mut changes = Changes { offsets: vec![0], ..Changes::default() };
        for slot in self.producers.dirty_slots() {
            changes.producer_ids.push(self.producers.header(slot).producer_id);
            entry::encode(&self.producers, slot, &mut changes.data);
            changes.offsets.push(changes.data.len() as u64);
        }
        changes.removed.extend(self.producers.removed());
        changes
    }

    /// The cut: what [`Self::changes`] returned is kept elsewhere now.
    pub fn mark_clean(&mut self) {
        self.producers.mark_clean();
    }

    /// Replaces everything by the entries of a checkpoint, which are not changes. Producers that
    /// have expired by `now_s` are forgotten right away (their removal is a change).
    ///
    /// `StoreCorrupt`, `StoreFormat`, `StoreMismatch` for entries that cannot be read,
    /// `CapacityExceeded` for more live producers than `max_producers` or `max_bytes` allow. Then nothing has changed.
    pub fn restore_entries<'a>(
        &mut self,
        entries: impl IntoIterator<Item = (i64, &'a [u8])>,
        now_s: f64,
    ) -> Result<()> {
        self.producers = self.read_entries(entries, now_s, true)?;
        self.state = prepared::StateId::next();
        Ok(())
    }

    /// A table with these entries and without expired ones, whose removal is its only change where
    /// the entries are those of the last cut (`are_known`).
    pub(super) fn read_entries<'a>(
        &self,
        entries: impl IntoIterator<Item = (i64, &'a [u8])>,
        now_s: f64,
        are_known: bool,
    ) -> Result<Producers> {
        super::check_time(now_s)?;
        let options = self.rules.options();
        let mut producers = Producers::new(options.order, options.window);
        for (producer_id, bytes) in entries {
            entry::decode_into(&mut producers, producer_id, bytes)?;
        }
        if are_known {
            producers.mark_known();
        }
        producers.remove_expired(&self.rules, now_s);
        if producers.len() > self.rules.most_producers() {
            let text = format!(
                "{} live producers are stored, more than {}: raise it (none of them may be \
                 forgotten)",
                producers.len(),
                self.rules.bound()
            );
            return Err(self.rules.too_many(text, producers.len()));
        }
        Ok(producers)
    }
}
