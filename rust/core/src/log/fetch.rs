//! Reading: short read transactions, so that no reader keeps old pages from being reused.

use super::batch::Columns;
use super::layout::Partition;
use super::records::Fetched;
use super::view::{Step, View, damaged};
use crate::{Detail, Error, ErrorKind};

/// How much one fetch returns at most; of a record that is larger, one is returned all the same.
#[derive(Debug, Clone, Copy)]
pub struct FetchLimits {
    /// Records.
    pub max_records: usize,
    /// Bytes of keys, values and headers.
    pub max_bytes: usize,
}

impl Default for FetchLimits {
    /// 100,000 records, 8 MiB.
    fn default() -> Self {
        Self { max_records: 100_000, max_bytes: 8 << 20 }
    }
}

/// Rows of one batch.
struct Piece<'t> {
    base: u64,
    columns: Columns<'t>,
    from: usize,
    to: usize,
}

/// Records of a partition from `offset` on.
pub(super) fn fetch(
    view: &impl View,
    name: &str,
    (topic, partition): (u32, u32),
    offset: u64,
    limits: FetchLimits,
) -> Step<Fetched> {
    let head = view.partition(topic, partition)?;
    if offset < head.start || offset > head.end {
        return Err(out_of_range(name, partition, offset, &head).into());
    }
    let mut out = Fetched { next_offset: head.end, ..Fetched::default() };
    if offset == head.end {
        return Ok(out);
    }
    let first = view.batch_before(topic, partition, offset)?.unwrap_or(offset);
    let mut pieces: Vec<Piece<'_>> = Vec::new();
    let (mut records, mut bytes) = (0, 0);
    for entry in view.batches(topic, partition, first)? {
        let (base, entry) = entry?;
        if records > 0 && (records >= limits.max_records || bytes >= limits.max_bytes) {
            out.next_offset = base;
            break;
        }
        let batch = view.resolve(&entry)?;
        let columns = batch.columns().map_err(|reason| {
            let key = super::layout::in_partition_key(topic, partition, base);
            damaged(super::layout::Table::Batches, &key, &reason)
        })?;
        let from = columns.row_at(offset.saturating_sub(base));
        let mut to = columns.len().min(from + (limits.max_records - records));
        while bytes + columns.bytes_between(from, to) > limits.max_bytes && to > from {
            // Halving ends close enough: a fetch need not be full to the last record.
            to = from + (to - from) / 2;
        }
        if to == from && from < columns.len() && records == 0 {
            to = from + 1;
        }
        records += to - from;
        bytes += columns.bytes_between(from, to);
        let cut = (to < columns.len()).then(|| base + columns.delta(to));
        if to > from {
            pieces.push(Piece { base, columns, from, to });
        }
        if let Some(next) = cut {
            out.next_offset = next;
            break;
        }
    }
    out.offsets.reserve_exact(records);
    out.timestamps.reserve_exact(records);
    out.values.offsets.reserve_exact(records);
    out.values.data.reserve(bytes);
    for Piece { base, columns, from, to } in &pieces {
        columns.append_to(*from, *to, *base, &mut out);
    }
    Ok(out)
}

fn out_of_range(name: &str, partition: u32, offset: u64, head: &Partition) -> Error {
    let why = if offset < head.start { "retention has removed it" } else { "it was never written" };
    Error::new(
        ErrorKind::OffsetOutOfRange,
        format!(
            "partition {partition} of {name:?} has offsets {} to {} (the next one to be written), \
             but {offset} was asked for: {why}; seek to one of these",
            head.start, head.end
        ),
    )
    .with(Detail::Offsets {
        topic: name.to_owned(),
        partition,
        offset,
        low: head.start,
        high: head.end,
    })
}
