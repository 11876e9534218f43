//! The batches of one call, as columns that were checked once.

use super::serial::{self, MAX_SPAN};
use crate::{Error, ErrorKind, Result};

/// Kafka's "not an idempotent producer": never a producer's id.
pub const NO_PRODUCER_ID: i64 = -1;

/// What a writer says about one batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch {
    /// Any number but [`NO_PRODUCER_ID`].
    pub producer_id: i64,
    /// The producer's generation, at least 0.
    pub producer_epoch: i64,
    /// Sequence of the first record, at least 0.
    pub first_sequence: i32,
    /// Sequence of the last record; below the first one if the batch spans the wrap.
    pub last_sequence: i32,
    /// Where the batch goes, kept for the answer to a retry.
    pub position: Option<i64>,
}

/// Batches as columns, one row a batch.
#[derive(Debug, Clone, Copy)]
pub struct Batches<'a> {
    producer_ids: &'a [i64],
    producer_epochs: &'a [i64],
    first_sequences: &'a [i32],
    last_sequences: &'a [i32],
    positions: Option<&'a [i64]>,
}

impl<'a> Batches<'a> {
    /// Checks the columns.
    ///
    /// `LengthMismatch` if they differ in length; `InvalidArgument` for the first row with
    /// [`NO_PRODUCER_ID`], a negative epoch or sequence, or more than [`MAX_SPAN`] sequences.
    pub fn new(
        producer_ids: &'a [i64],
        producer_epochs: &'a [i64],
        first_sequences: &'a [i32],
        last_sequences: &'a [i32],
        positions: Option<&'a [i64]>,
    ) -> Result<Self> {
        let rows = producer_ids.len();
        let check_length = |name: &str, length: usize| {
            if length == rows {
                return Ok(());
            }
            let text = format!(
                "{name} has {length} values for {rows} producer ids: give one for each batch"
            );
            Err(Error::new(ErrorKind::LengthMismatch, text))
        };
        check_length("producer_epochs", producer_epochs.len())?;
        check_length("first_sequences", first_sequences.len())?;
        check_length("last_sequences", last_sequences.len())?;
        check_length("positions", positions.map_or(rows, <[i64]>::len))?;
        let batches =
            Self { producer_ids, producer_epochs, first_sequences, last_sequences, positions };
        // Without branches, so that it runs at the speed of memory; bad rows are looked for only
        // when there is one.
        let mut bad = false;
        for (((id, epoch), first), last) in
            producer_ids.iter().zip(producer_epochs).zip(first_sequences).zip(last_sequences)
        {
            bad |= (*id == NO_PRODUCER_ID)
                | (*epoch < 0)
                | ((*first | *last) < 0)
                | (serial::distance(*first, *last) >= MAX_SPAN);
        }
        if bad {
            for row in 0..rows {
                batches.check_row(row)?;
            }
        }
        Ok(batches)
    }

    /// Number of batches.
    pub fn len(&self) -> usize {
        self.producer_ids.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.producer_ids.is_empty()
    }

    pub(super) fn producer_ids(&self) -> &'a [i64] {
        self.producer_ids
    }

    #[inline]
    pub(super) fn row(&self, row: usize) -> Batch {
        Batch {
            producer_id: self.producer_ids[row],
            producer_epoch: self.producer_epochs[row],
            first_sequence: self.first_sequences[row],
            last_sequence: self.last_sequences[row],
            position: self.positions.map(|positions| positions[row]),
        }
    }

    fn check_row(&self, row: usize) -> Result<()> {
        let Batch { producer_id, producer_epoch: epoch, first_sequence, last_sequence, .. } =
            self.row(row);
        let refuse = |text: String| {
            let text = format!("batch {row} of producer {producer_id}: {text}");
            Err(Error::new(ErrorKind::InvalidArgument, text))
        };
        if producer_id == NO_PRODUCER_ID {
            return refuse(
                "-1 means a writer without an id, whose batches cannot be told apart: do not \
                 check them, or give the writer an id"
                    .into(),
            );
        }
        if epoch < 0 {
            return refuse(format!("its epoch is {epoch}: epochs begin at 0"));
        }
        if first_sequence < 0 || last_sequence < 0 {
            return refuse(format!(
                "its sequences are {first_sequence} to {last_sequence}: sequences run from 0 to \
                 {} and wrap to 0",
                i32::MAX
            ));
        }
        let count = serial::count(first_sequence, last_sequence);
        if count > MAX_SPAN {
            return refuse(format!(
                "from sequence {first_sequence} to {last_sequence} it would hold {count} records, \
                 at most {MAX_SPAN} are possible: swap first and last, or split it"
            ));
        }
        Ok(())
    }
}
