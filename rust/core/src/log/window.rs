//! Dedupe windows as entries of the log: the rules are those of `crate::sequence`.

use crate::sequence::{
    Batches, DedupeMode, Deduplicator, DeduplicatorOptions, Order, Verdict, VerdictCode,
};
use crate::{Detail, Error, ErrorKind, Result};

/// Batches remembered of each producer in each partition: what a Kafka producer may have in flight.
const WINDOW: usize = 5;

/// What a window says of a batch.
pub(super) struct Judged {
    pub(super) verdict: Verdict,
    /// The window's entry after an accepted batch.
    pub(super) entry: Option<Vec<u8>>,
}

/// A batch of a producer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Claim {
    pub(super) id: i64,
    pub(super) epoch: i32,
    pub(super) first_sequence: i32,
    pub(super) records: u64,
    /// Where it would go.
    pub(super) position: u64,
}

/// Judges a batch against the entry of its producer.
///
/// `expiry_ms`: a producer that was silent for longer counts as unknown.
pub(super) fn judge(
    entry: Option<&[u8]>,
    claim: &Claim,
    expiry_ms: Option<u64>,
    now_ms: i64,
) -> Result<Judged> {
    let now_s = now_ms as f64 / 1000.0;
    let mut dedupe = Deduplicator::new(DeduplicatorOptions {
        mode: DedupeMode::Strict,
        order: Order::Ordered,
        window: WINDOW,
        max_producers: 1,
        expiry_s: expiry_ms.map(|expiry| expiry as f64 / 1000.0),
        ..DeduplicatorOptions::default()
    })?;
    dedupe.restore_entries(entry.map(|entry| (claim.id, entry)), now_s)?;
    dedupe.mark_clean();
    let last = last_sequence(claim.first_sequence, claim.records)?;
    let (ids, epochs) = ([claim.id], [i64::from(claim.epoch)]);
    let (firsts, lasts) = ([claim.first_sequence], [last]);
    let positions = [claim.position as i64];
    let batch = Batches::new(&ids, &epochs, &firsts, &lasts, Some(&positions))?;
    let verdicts = dedupe.check_many(&batch, now_s)?;
    let detail = verdicts.details().first().copied().unwrap_or(-1);
    let code = verdicts.codes().first().copied().unwrap_or(VerdictCode::Gap as u8);
    let verdict = match code {
        code if code == VerdictCode::Accept as u8 => Verdict::Accept,
        code if code == VerdictCode::Duplicate as u8 => {
            Verdict::Duplicate { position: Some(detail) }
        }
        code if code == VerdictCode::TooOld as u8 => Verdict::TooOld,
        code if code == VerdictCode::Fenced as u8 => Verdict::Fenced { current_epoch: detail },
        _ => Verdict::Gap { expected: detail as i32 },
    };
    let changes = dedupe.changes();
    let entry = (!changes.producer_ids().is_empty()).then(|| changes.entry(0).to_vec());
    Ok(Judged { verdict, entry })
}

/// Whether a producer was silent for so long that it counts as unknown.
pub(super) fn is_expired(entry: &[u8], id: i64, expiry_ms: u64, now_ms: i64) -> Result<bool> {
    let mut dedupe = Deduplicator::new(DeduplicatorOptions {
        window: WINDOW,
        max_producers: 1,
        expiry_s: Some(expiry_ms as f64 / 1000.0),
        ..DeduplicatorOptions::default()
    })?;
    dedupe.restore_entries([(id, entry)], now_ms as f64 / 1000.0)?;
    Ok(dedupe.is_empty())
}

/// The sequence of the last of `records` records.
pub(super) fn last_sequence(first: i32, records: u64) -> Result<i32> {
    let steps = records.checked_sub(1).filter(|steps| *steps < 1 << 30);
    let steps = steps.ok_or_else(|| {
        let text = format!("{records} records in one call; give 1 to {}", 1 << 30);
        Error::new(ErrorKind::InvalidArgument, text)
    })?;
    Ok(((i64::from(first) + steps as i64) & i64::from(i32::MAX)) as i32)
}

/// The sequence after so many records.
pub(super) fn after(first: i32, records: u64) -> i32 {
    ((i64::from(first) + records as i64) & i64::from(i32::MAX)) as i32
}

/// What a refusal tells the producer.
pub(super) fn refusal(verdict: Verdict, claim: &Claim, what: &str) -> Error {
    let Claim { id, epoch, first_sequence, records, .. } = claim;
    let batch = format!("{records} records from sequence {first_sequence} on of producer {id}");
    match verdict {
        Verdict::Fenced { current_epoch } => fenced(*id, *epoch, current_epoch),
        Verdict::TooOld => Error::new(
            ErrorKind::OutOfOrderSequence,
            format!(
                "{what}: {batch} are older than the {WINDOW} batches that are remembered; whether \
                 they were written is not known. Begin again with a new producer"
            ),
        )
        .with(Detail::Sequences { expected: None, got: (*first_sequence).into() }),
        Verdict::Gap { expected } => Error::new(
            ErrorKind::OutOfOrderSequence,
            format!(
                "{what}: {batch} do not follow what was written, which goes on with sequence \
                 {expected}. Send the missing batches first, or begin with a new producer"
            ),
        )
        .with(Detail::Sequences { expected: Some(expected.into()), got: (*first_sequence).into() }),
        Verdict::Accept | Verdict::Duplicate { .. } => {
            Error::new(ErrorKind::OutOfOrderSequence, format!("{what}: {batch} were accepted"))
                .with(Detail::Sequences { expected: None, got: (*first_sequence).into() })
        }
    }
}

/// A producer that another one has replaced.
pub(super) fn fenced(id: i64, epoch: i32, current: i64) -> Error {
    Error::new(
        ErrorKind::ProducerFenced,
        format!(
            "producer {id} has epoch {epoch}, but epoch {current} has taken over: another producer \
             with the same transactional id was started (or this one timed out). Close this one"
        ),
    )
    .with(Detail::Epochs { epoch: epoch.into(), newer: current })
}
