//! Which runs of the job have begun with this directory, so that traces of a copy are told from its own.
//!
//! A copy of a directory goes on with the same job epochs. What a run leaves outside, such as in the
//! target of a sink, names job epoch and run; a run that is not noted here for its epoch was of a copy.

use serde::{Deserialize, Serialize};

use crate::store::{RecordStore, Snapshot};
use crate::{Error, ErrorKind, Result};

/// The note that holds them.
const NOTE: &str = "__runs";
/// So many are kept.
const KEPT: usize = 1000;

/// Job epoch and identity of each, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Runs(Vec<(u64, String)>);

impl Runs {
    /// What was kept; nothing of a directory that no run has begun with.
    pub(super) fn read(snapshot: &Snapshot<'_>) -> Result<Self> {
        let Some(bytes) = snapshot.note(NOTE)? else { return Ok(Self::default()) };
        rmp_serde::from_slice(&bytes).map_err(|error| {
            Error::new(
                ErrorKind::StoreCorrupt,
                format!("the note {NOTE:?} cannot be read: {error}"),
            )
        })
    }

    /// Makes them durable.
    pub(super) fn write(&self, store: &impl RecordStore) -> Result<()> {
        let bytes = rmp_serde::to_vec(self).map_err(|error| {
            Error::new(ErrorKind::InvalidArgument, format!("runs cannot be encoded: {error}"))
        })?;
        store.put_note(NOTE, &bytes)
    }

    pub(super) fn begun(&self) -> &[(u64, String)] {
        &self.0
    }

    /// With another one; the oldest ones are forgotten.
    pub(super) fn with(&self, job_epoch: u64, run: &str) -> Self {
        let mut runs: Vec<(u64, String)> =
            self.0.iter().filter(|(epoch, _)| *epoch != job_epoch).cloned().collect();
        runs.push((job_epoch, run.to_owned()));
        runs.drain(..runs.len().saturating_sub(KEPT));
        Self(runs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_kept() {
        let mut runs = Runs::default();
        for epoch in 1..=KEPT as u64 + 5 {
            runs = runs.with(epoch, "a");
        }
        assert_eq!((runs.begun().len(), runs.begun()[0].0), (KEPT, 6));
        let again = runs.with(KEPT as u64 + 5, "b");
        assert_eq!(again.begun().len(), KEPT);
        assert_eq!(again.begun().last(), Some(&(KEPT as u64 + 5, "b".to_owned())));
    }
}
