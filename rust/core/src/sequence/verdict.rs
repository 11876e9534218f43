//! The answer to a batch.

/// What a batch is to the deduplicator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// New: apply it, once.
    Accept,
    /// Applied before: acknowledge it, do not apply it.
    Duplicate {
        /// Where the original went. `None` if it came without a position or the window is a
        /// bitmap ([`super::Order::Unordered`]), which has no room for positions.
        position: Option<i64>,
    },
    /// Older than everything remembered: it may have been applied or not.
    TooOld,
    /// It does not follow what was accepted before: batches are missing, or it overlaps them.
    Gap {
        /// The sequence that would be accepted next. In an unordered window: the batch's first
        /// sequence that was not seen.
        expected: i32,
    },
    /// A newer epoch of the producer has taken over.
    Fenced {
        /// That epoch.
        current_epoch: i64,
    },
}

/// The kind of a verdict, as one byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum VerdictCode {
    Accept = 0,
    Duplicate = 1,
    TooOld = 2,
    Gap = 3,
    Fenced = 4,
}

/// In `details`: nothing to say.
const NO_DETAIL: i64 = -1;

/// One verdict a batch, as columns.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdicts {
    codes: Vec<u8>,
    details: Vec<i64>,
}

impl Verdicts {
    /// All accepted.
    pub(super) fn accepted(rows: usize) -> Self {
        Self { codes: vec![VerdictCode::Accept as u8; rows], details: vec![NO_DETAIL; rows] }
    }

    pub(super) fn set(&mut self, row: usize, verdict: Verdict) {
        let (code, detail) = match verdict {
            Verdict::Accept => (VerdictCode::Accept, NO_DETAIL),
            Verdict::Duplicate { position } => {
                (VerdictCode::Duplicate, position.unwrap_or(NO_DETAIL))
            }
            Verdict::TooOld => (VerdictCode::TooOld, NO_DETAIL),
            Verdict::Gap { expected } => (VerdictCode::Gap, i64::from(expected)),
            Verdict::Fenced { current_epoch } => (VerdictCode::Fenced, current_epoch),
        };
        self.codes[row] = code as u8;
        self.details[row] = detail;
    }

    /// Number of verdicts.
    pub fn len(&self) -> usize {
        self.codes.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.codes.is_empty()
    }

    /// One [`VerdictCode`] a batch.
    pub fn codes(&self) -> &[u8] {
        &self.codes
    }

    /// Duplicate: the original position, -1 if there is none. Gap: the sequence expected. Fenced:
    /// the current epoch. Else -1.
    pub fn details(&self) -> &[i64] {
        &self.details
    }

    /// Both columns, codes first.
    pub fn into_columns(self) -> (Vec<u8>, Vec<i64>) {
        (self.codes, self.details)
    }
}
