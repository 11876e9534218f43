//! The sink ledger: how far each sink is with the checkpoint that all of them share.
//!
//! The steps of one checkpoint, for every sink: *prepared* (its output is durable where no
//! reader sees it), *decided* (the store's decision record is durable: one moment for all
//! sinks), *committed* (readers see it). Three laws hold in every state:
//! - nothing is decided that a sink has not prepared;
//! - nothing is committed that is not decided, and nothing decided is aborted;
//! - the next checkpoint is prepared only when every sink has committed the one before, so that
//!   a sink is behind the last decision by at most that one.

use std::collections::BTreeMap;

use crate::{Error, ErrorKind, Result};

/// How far one sink is: ids of checkpoints, `None` before the first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SinkProgress {
    /// The newest that the sink has prepared and that was not aborted.
    pub prepared: Option<u64>,
    /// The newest that was decided (the same for all sinks).
    pub decided: Option<u64>,
    /// The newest that the sink has committed.
    pub committed: Option<u64>,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct SinkLedger {
    sinks: BTreeMap<String, SinkProgress>,
    decided: Option<u64>,
}

impl SinkLedger {
    /// A ledger for these sinks; a job without sinks has an empty one. Names must differ.
    pub fn new(names: impl IntoIterator<Item = String>) -> Result<Self> {
        let mut sinks = BTreeMap::new();
        for name in names {
            if sinks.insert(name.clone(), SinkProgress::default()).is_some() {
                return Err(Error::new(
                    ErrorKind::InvalidArgument,
                    format!("two sinks are named {name:?}: give each sink a name of its own"),
                ));
            }
        }
        Ok(Self { sinks, decided: None })
    }

    /// The sinks' names, in order.
    pub fn sinks(&self) -> impl Iterator<Item = &str> {
        self.sinks.keys().map(String::as_str)
    }

    /// How far this sink is; `UnknownName` if there is none of this name.
    pub fn progress(&self, sink: &str) -> Result<SinkProgress> {
        self.sinks.get(sink).copied().ok_or_else(|| self.unknown(sink))
    }

    /// The newest checkpoint that was decided.
    pub fn decided(&self) -> Option<u64> {
        self.decided
    }

    /// A sink has prepared this checkpoint. A repeated report changes nothing.
    pub fn prepare(&mut self, sink: &str, checkpoint_id: u64) -> Result<()> {
        let progress = self.progress(sink)?;
        if progress.prepared == Some(checkpoint_id) {
            return Ok(());
        }
        let refused = if self.decided >= Some(checkpoint_id) {
            format!("checkpoint {:?} is decided already", self.decided.unwrap_or_default())
        } else if let Some(behind) = self.uncommitted().next() {
            format!("sink {behind:?} has not committed the checkpoint decided before")
        } else if let Some(other) =
            progress.prepared.filter(|prepared| self.decided < Some(*prepared))
        {
            format!("it has prepared checkpoint {other}, which is neither decided nor aborted")
        } else {
            self.update(sink, |progress| progress.prepared = Some(checkpoint_id));
            return Ok(());
        };
        Err(state_error(
            checkpoint_id,
            format!("sink {sink:?} cannot prepare checkpoint {checkpoint_id}: {refused}"),
        ))
    }

    /// Sinks that have not prepared this checkpoint.
    pub fn unprepared(&self, checkpoint_id: u64) -> impl Iterator<Item = &str> {
        self.sinks
            .iter()
            .filter(move |(_, progress)| progress.prepared != Some(checkpoint_id))
            .map(|(sink, _)| sink.as_str())
    }

    /// The decision record of this checkpoint is durable. Refused unless all sinks prepared it.
    pub fn decide(&mut self, checkpoint_id: u64) -> Result<()> {
        if self.decided == Some(checkpoint_id) {
            return Ok(());
        }
        if self.decided > Some(checkpoint_id) {
            return Err(state_error(
                checkpoint_id,
                format!(
                    "checkpoint {checkpoint_id} cannot be decided after checkpoint {}",
                    self.decided.unwrap_or_default()
                ),
            ));
        }
        if let Some(sink) = self.unprepared(checkpoint_id).next() {
            return Err(state_error(
                checkpoint_id,
                format!(
                    "checkpoint {checkpoint_id} cannot be decided: sink {sink:?} has not prepared it"
                ),
            ));
        }
        self.decided = Some(checkpoint_id);
        for progress in self.sinks.values_mut() {
            progress.decided = Some(checkpoint_id);
        }
        Ok(())
    }

    /// A sink has committed this checkpoint. A repeated report changes nothing.
    pub fn commit(&mut self, sink: &str, checkpoint_id: u64) -> Result<()> {
        let progress = self.progress(sink)?;
        if progress.committed >= Some(checkpoint_id) {
            return Ok(());
        }
        if self.decided != Some(checkpoint_id) {
            return Err(state_error(
                checkpoint_id,
                format!(
                    "sink {sink:?} cannot have committed checkpoint {checkpoint_id}: {}",
                    match self.decided {
                        Some(decided) => format!("the newest decided one is {decided}"),
                        None => "none is decided".to_owned(),
                    }
                ),
            ));
        }
        self.update(sink, |progress| progress.committed = Some(checkpoint_id));
        Ok(())
    }

    /// Sinks that have yet to commit the newest decided checkpoint: it must be rolled forward.
    pub fn uncommitted(&self) -> impl Iterator<Item = &str> {
        self.sinks
            .iter()
            .filter(|(_, progress)| progress.committed < self.decided)
            .map(|(sink, _)| sink.as_str())
    }

    /// This checkpoint is given up: what sinks prepared for it counts no more.
    pub fn abort(&mut self, checkpoint_id: u64) -> Result<()> {
        if self.decided >= Some(checkpoint_id) {
            return Err(state_error(
                checkpoint_id,
                format!(
                    "checkpoint {checkpoint_id} cannot be aborted: checkpoint {} is decided, and a \
                 decision only rolls forward",
                    self.decided.unwrap_or_default()
                ),
            ));
        }
        for progress in self.sinks.values_mut() {
            if progress.prepared == Some(checkpoint_id) {
                progress.prepared = self.decided;
            }
        }
        Ok(())
    }

    fn update(&mut self, sink: &str, change: impl FnOnce(&mut SinkProgress)) {
        if let Some(progress) = self.sinks.get_mut(sink) {
            change(progress);
        }
    }

    fn unknown(&self, sink: &str) -> Error {
        let known: Vec<_> = self.sinks().collect();
        Error::new(
            ErrorKind::UnknownName,
            format!("no sink is named {sink:?}; the sinks are {known:?}"),
        )
    }
}

fn state_error(checkpoint_id: u64, message: String) -> Error {
    Error::new(ErrorKind::CheckpointState, message).with_checkpoint(checkpoint_id)
}
