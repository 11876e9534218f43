//! What an exact recovery must do, given what the store can read and what the sinks have applied.
//!
//! Checkpoint `r` is the one that state was restored from. In the good case it is the newest
//! decided one. In the bad case newer checkpoints were decided whose state is damaged: of some
//! the decision record can still be read (`decided_after`: positions and staged outputs are in
//! it), of others not even that (`unreadable`). A sink may have applied any of them.
//!
//! # Why the plans are exact
//!
//! Call `out(a, b)` the output that belongs to the inputs between the positions of checkpoints
//! `a` and `b`; it was fixed when `b` was decided, and stands in `b`'s record. A sink is exact if
//! it holds `out(0, r)`, `out(r, n1)`, `out(n1, n2)`, … each once, without a gap, and if the
//! outputs produced from now on continue where it ends.
//!
//! 1. **Nothing newer than `r` was decided.** A sink holds `out(0, r)`, or lacks `r`'s own part:
//!    the crash came between the decision and its commit. A decision only rolls forward, so
//!    `r`'s staged output is committed again: harmless where it was applied, since applying is
//!    idempotent by the sink's contract. No sink lacks more than `r`'s own part, because the
//!    coordinator starts no checkpoint before every sink has committed the one before.
//! 2. **Newer ones were decided, and provably no sink applied any** (every sink can tell, and
//!    none is past `r`). Then the world outside knows nothing of them: they may be given up.
//!    Their inputs are processed again from `r`, with outputs, once. That stays exact even if
//!    user code is not deterministic, since the outputs of the first run never get out. But they
//!    *must* be given up, before anything new is decided: their records are dropped from the
//!    store durably (so that no later recovery finds the decision and rolls it forward), then
//!    the sinks abort what they had staged. [`RecoveryPlan::Resume::abort`] lists them.
//! 3. **Newer ones were decided, and a sink applied some, or cannot tell.** They cannot be taken
//!    back, so all of them are rolled forward: each sink ends with `out(0, n)`, `n` being the
//!    newest whose record can be read. Only the state is missing. It is computed again: inputs
//!    from `r` up to exactly the positions in `n`'s record, with all outputs suppressed, since
//!    every one of them is in the sinks. Then the job goes on. This needs a source that replays
//!    to an exact position, and user code that is deterministic (else the state would not be the
//!    one that the outputs came from); whoever knows that it is not must treat the source as not
//!    replayable. Falling back without suppression would write `out(r, n)` twice; suppressing
//!    without rolling forward would lose it in the sinks that had not applied it.
//! 4. **Anything else stops**, and says why: without a source to replay, with an output that a
//!    sink lacks and no record holds any more, or when a sink has applied a checkpoint that the
//!    store does not know (another directory's, or of a lineage that was given up).
//!
//! An unreadable checkpoint has no positions and no staged output. Cases 1 and 2 do not need
//! them. In case 3 each sink must provably have applied it, if it is older than `n`, or provably
//! not, if it is newer; then it is given up as in case 2.
//!
//! # Order
//!
//! The epoch is raised and the sinks are fenced *before* they are asked what they have applied:
//! a paused process of the old epoch could apply after the answer. Then: `abort` (records first,
//! then sinks), `roll_forward` in ascending order, replay, resume. Each step may be repeated
//! after a crash in the middle: the facts have changed only in the direction of the plan, and a
//! new plan from them ends in the same place. The model in `tests/coordinator_recovery.rs` runs
//! such histories.

use std::collections::{BTreeMap, BTreeSet};

use crate::{Error, ErrorKind, Result};

/// What is known after the store was opened and the sinks were fenced and asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecoveryFacts {
    /// The checkpoint that state was restored from; `None`: there is none, state is empty.
    pub restored: Option<u64>,
    /// Newer ones whose decision can be read although their state cannot.
    pub decided_after: Vec<u64>,
    /// Newer ones of whose decision record nothing but the id is known.
    pub unreadable: Vec<u64>,
    /// The newest checkpoint that each sink has applied: 0 if it has applied none (ids start at
    /// 1), `None` if it cannot tell.
    pub applied: BTreeMap<String, Option<u64>>,
    /// Every source can be read from the positions restored to exactly the positions of a later
    /// checkpoint, and processing the same input again gives the same state.
    pub replayable_to_position: bool,
}

/// What an exact recovery must do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecoveryPlan {
    /// Go on from the restored checkpoint.
    Resume {
        /// Ids whose staged outputs every sink must commit again first, ascending.
        roll_forward: Vec<u64>,
        /// Ids to give up for good before that: drop their records, then abort them in the sinks.
        abort: Vec<u64>,
    },
    /// Read on from the restored checkpoint with outputs suppressed, then go on.
    ReplaySuppressed {
        /// Ids whose staged outputs every sink must commit again first, ascending.
        roll_forward: Vec<u64>,
        /// Ids to give up for good before that: drop their records, then abort them in the sinks.
        abort: Vec<u64>,
        /// Outputs are suppressed up to exactly the positions of this checkpoint.
        until: u64,
    },
    /// No exact recovery is possible; a person must choose.
    Stop {
        /// Why, and what can be done.
        reason: String,
    },
}

/// See the module. `InvalidArgument` for facts that contradict each other.
pub fn recovery_plan(facts: &RecoveryFacts) -> Result<RecoveryPlan> {
    let known = Known::new(facts)?;
    if let Some(reason) = known.foreign_output() {
        return Ok(RecoveryPlan::Stop { reason });
    }
    let damaged = known.damaged();
    if damaged.is_empty() || known.none_applied_after(known.base) {
        return Ok(RecoveryPlan::Resume {
            roll_forward: known.restored().filter(|id| known.may_lack(*id)).into_iter().collect(),
            abort: damaged.into_iter().collect(),
        });
    }
    Ok(known.replay(facts.replayable_to_position))
}

/// The facts, checked. 0 stands for "before the first checkpoint".
struct Known<'a> {
    base: u64,
    decided_after: BTreeSet<u64>,
    unreadable: BTreeSet<u64>,
    applied: &'a BTreeMap<String, Option<u64>>,
}

impl<'a> Known<'a> {
    fn new(facts: &'a RecoveryFacts) -> Result<Self> {
        let base = facts.restored.unwrap_or(0);
        if facts.restored == Some(0) {
            return Err(invalid("checkpoint ids start at 1, but 0 was restored".to_owned()));
        }
        let mut seen = BTreeSet::new();
        for id in facts.decided_after.iter().chain(&facts.unreadable) {
            if *id <= base {
                return Err(invalid(format!(
                    "checkpoint {id} is listed as newer than the restored checkpoint {base}"
                )));
            }
            if !seen.insert(*id) {
                return Err(invalid(format!("checkpoint {id} is listed twice")));
            }
        }
        Ok(Self {
            base,
            decided_after: facts.decided_after.iter().copied().collect(),
            unreadable: facts.unreadable.iter().copied().collect(),
            applied: &facts.applied,
        })
    }

    fn restored(&self) -> Option<u64> {
        (self.base > 0).then_some(self.base)
    }

    fn damaged(&self) -> BTreeSet<u64> {
        self.decided_after.union(&self.unreadable).copied().collect()
    }

    /// Provably no sink has applied anything newer than this.
    fn none_applied_after(&self, id: u64) -> bool {
        self.applied.values().all(|applied| applied.is_some_and(|applied| applied <= id))
    }

    /// Some sink may not have applied this one.
    fn may_lack(&self, id: u64) -> bool {
        self.applied.values().any(|applied| applied.is_none_or(|applied| applied < id))
    }

    /// A sink is ahead of everything that the store knows.
    fn foreign_output(&self) -> Option<String> {
        let newest = self.damaged().last().copied().unwrap_or(self.base);
        let (sink, applied) = self
            .applied
            .iter()
            .filter_map(|(sink, applied)| applied.map(|applied| (sink, applied)))
            .find(|(_, applied)| *applied > newest)?;
        Some(format!(
            "sink {sink:?} has applied checkpoint {applied}, but the newest that this state \
             directory knows is {newest}: going on would write its outputs again. Use the state \
             directory that belongs to this output, or start with a new output"
        ))
    }

    /// Newer checkpoints are in the sinks, or may be: only the state can be made again.
    fn replay(&self, replayable_to_position: bool) -> RecoveryPlan {
        let stop = |reason: String| RecoveryPlan::Stop { reason };
        let who = self.ahead();
        let Some(until) = self.decided_after.last().copied() else {
            return stop(format!(
                "the records of checkpoints {:?} are damaged and {who}: how far the outputs go \
                 cannot be known. Restore a backup of the state directory, or start with a new \
                 output",
                self.unreadable
            ));
        };
        for id in &self.unreadable {
            if *id < until && self.may_lack(*id) {
                return stop(format!(
                    "the record of checkpoint {id} is damaged and with it the outputs staged in \
                     it, which not every sink has provably applied: {}. Restore a backup of the \
                     state directory, or start with a new output",
                    self.describe_sinks()
                ));
            }
            if *id > until && !self.none_applied_after(until) {
                return stop(format!(
                    "the record of checkpoint {id}, newer than the newest readable {until}, is \
                     damaged, and sinks may have applied it: {}. Restore a backup of the state \
                     directory, or start with a new output",
                    self.describe_sinks()
                ));
            }
        }
        if !replayable_to_position {
            return stop(format!(
                "the state of checkpoints {:?} is damaged and {who}; exact recovery must replay \
                 the inputs from checkpoint {} to exactly the positions of checkpoint {until} \
                 with outputs suppressed, which these sources or this dataflow cannot do. \
                 Restore a backup of the state directory, or start with a new output",
                self.decided_after, self.base
            ));
        }
        RecoveryPlan::ReplaySuppressed {
            roll_forward: self
                .restored()
                .into_iter()
                .chain(self.decided_after.iter().copied())
                .filter(|id| self.may_lack(*id))
                .collect(),
            abort: self.unreadable.iter().copied().filter(|id| *id > until).collect(),
            until,
        }
    }

    /// Which sink stands in the way of giving the newer checkpoints up.
    fn ahead(&self) -> String {
        let ahead = |applied: &Option<u64>| applied.is_none_or(|applied| applied > self.base);
        match self.applied.iter().find(|(_, applied)| ahead(applied)) {
            Some((sink, Some(applied))) => {
                format!("sink {sink:?} has applied checkpoint {applied}")
            }
            Some((sink, None)) => format!("sink {sink:?} cannot tell what it has applied"),
            None => "no sink is ahead".to_owned(),
        }
    }

    fn describe_sinks(&self) -> String {
        let describe = |(sink, applied): (&String, &Option<u64>)| match applied {
            Some(applied) => format!("{sink:?} has applied {applied}"),
            None => format!("{sink:?} cannot tell"),
        };
        self.applied.iter().map(describe).collect::<Vec<_>>().join(", ")
    }
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidArgument, message)
}
