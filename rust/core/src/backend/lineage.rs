//! Which checkpoints are the history of the job, once it has gone back on purpose.
//!
//! Going on from an older checkpoint, or from nothing, starts a new lineage. The checkpoints between
//! the one that it begins with and its own first one are left: they stay for a while, and can be
//! chosen, but no recovery comes back to them by itself. That must hold before the first record is
//! read and before a sink is touched, so the choice is a note of its own, written before the new
//! lineage has a checkpoint.

use serde::{Deserialize, Serialize};

use crate::store::{RecordStore, Snapshot};
use crate::{Error, ErrorKind, Result};

/// So many numbers of new lineages are told apart by chance, where the clock does not.
const DRAWN: u64 = 1_000_000;

/// The number of a lineage that begins: the wanted one, which no other copy of the state gets, if it
/// is above all that this copy knows; else above these, by chance.
pub(super) fn number_above(newest: u64, wanted: u64) -> u64 {
    if wanted > newest { wanted } else { newest.saturating_add(1 + wanted % DRAWN) }
}

/// The note that holds the splits.
const NOTE: &str = "__lineages";

/// A choice: lineage `lineage` goes on from checkpoint `base` (0: from nothing), and its own
/// checkpoints have ids of at least `first`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Split {
    lineage: u64,
    base: u64,
    first: u64,
}

/// The choices that led to the present lineage, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Lineages {
    splits: Vec<Split>,
}

impl Lineages {
    /// What was kept; nothing in a directory whose job never went back.
    pub(super) fn read(snapshot: &Snapshot<'_>) -> Result<Self> {
        let Some(bytes) = snapshot.note(NOTE)? else { return Ok(Self::default()) };
        let splits = rmp_serde::from_slice(&bytes).map_err(|error| {
            Error::new(
                ErrorKind::StoreCorrupt,
                format!("the note {NOTE:?} cannot be read: {error}"),
            )
        })?;
        Ok(Self { splits })
    }

    /// Makes them durable.
    pub(super) fn write(&self, store: &impl RecordStore) -> Result<()> {
        let bytes = rmp_serde::to_vec(&self.splits).map_err(|error| {
            Error::new(ErrorKind::InvalidArgument, format!("lineages cannot be encoded: {error}"))
        })?;
        store.put_note(NOTE, &bytes)
    }

    /// Number of the newest lineage that was begun by a choice; 0 without one.
    pub(super) fn newest(&self) -> u64 {
        self.splits.last().map_or(0, |split| split.lineage)
    }

    /// True if it is known what this lineage went on from.
    pub(super) fn knows(&self, lineage: u64) -> bool {
        self.splits.iter().any(|split| split.lineage == lineage)
    }

    /// True if the checkpoint of this id belongs to the history of the present lineage.
    pub(super) fn includes(&self, id: u64) -> bool {
        !self.splits.iter().any(|split| split.base < id && id < split.first)
    }

    /// The choices as they are once `lineage` goes on from `base`; its checkpoints come after `newest`.
    pub(super) fn split(&self, lineage: u64, base: u64, newest: u64) -> Self {
        // What was chosen after the base was decided is not part of its history.
        let mut splits: Vec<Split> =
            self.splits.iter().filter(|split| split.first <= base).copied().collect();
        splits.push(Split { lineage, base, first: newest + 1 });
        Self { splits }
    }

    /// The last choice under another number.
    pub(super) fn renumbered(mut self, lineage: u64) -> Self {
        if let Some(last) = self.splits.last_mut() {
            last.lineage = lineage;
        }
        self
    }

    /// Without the choices that concern none of the checkpoints that exist, besides the last one.
    pub(super) fn pruned(mut self, oldest: u64) -> Self {
        let last = self.splits.len().saturating_sub(1);
        let mut index = 0;
        self.splits.retain(|split| {
            index += 1;
            index > last || split.first > oldest
        });
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_between_a_base_and_its_lineage_is_left() {
        let none = Lineages::default();
        assert!(none.includes(1) && none.includes(9));
        let back_to_two = none.split(2, 2, 4);
        let known: Vec<u64> = (1..8).filter(|id| back_to_two.includes(*id)).collect();
        assert_eq!(known, [1, 2, 5, 6, 7]);
        // From a checkpoint that was left: what left it does not count any more.
        let back_to_left = back_to_two.split(3, 4, 6);
        let known: Vec<u64> = (1..9).filter(|id| back_to_left.includes(*id)).collect();
        assert_eq!(known, [1, 2, 3, 4, 7, 8]);
        let afresh = back_to_two.split(4, 0, 6);
        let known: Vec<u64> = (1..9).filter(|id| afresh.includes(*id)).collect();
        assert_eq!(known, [7, 8]);
        assert_eq!((afresh.newest(), afresh.knows(2)), (4, false));
    }

    #[test]
    fn a_number_is_above_all_that_are_known() {
        assert_eq!(number_above(1, 2), 2);
        assert_eq!(number_above(1, 1_790_000_000_000_000_000), 1_790_000_000_000_000_000);
        // The clock was ahead when the newest one began.
        assert_eq!(number_above(7_000_000, 5_000_003), 7_000_004);
        assert_eq!(number_above(7, 7), 15);
        assert_eq!(number_above(u64::MAX, 1), u64::MAX);
    }

    #[test]
    fn choices_that_no_checkpoint_needs_are_forgotten() {
        let twice = Lineages::default().split(2, 2, 4).split(3, 6, 8);
        assert_eq!(twice.clone().pruned(3), twice);
        assert_eq!(twice.clone().pruned(6), Lineages::default().split(3, 6, 8));
        assert!(!twice.pruned(20).includes(7));
    }
}
