//! Rows copied out of a frozen table, on their way to the writer.

use std::sync::Arc;

use super::chunk::{RowsRef, encode};
use super::{ChunkKind, EncodedChunk};
use crate::rows::layout::{Layout, NO_HANDLE};

/// No chunk is larger, unless one row is.
const MAX_CHUNK_BYTES: usize = 1 << 20;

/// Chunks whose memory is kept for the next ones.
const SPARE_CHUNKS: usize = 256;

/// The frozen rows of one table: bases of some key groups, deltas of the others.
///
/// Rows are `layout.width` words each, one after the other, as they lie in the table (see
/// `rows::layout`), except that a long key's second word is the offset of its bytes in `bytes`,
/// and a bytes cell that is set and not empty is the offset there of its length (u32, LE),
/// followed by its bytes. In the header only live bit and set bits mean something; a row that is
/// not live is a tombstone: only its key counts. The rows are nearly in the order of their hashes.
pub struct Capture {
    pub(crate) layout: Arc<Layout>,
    /// By key group: captured whole (its rows are all live ones) or only what changed.
    pub(crate) base_groups: Vec<bool>,
    pub(crate) words: Vec<u64>,
    pub(crate) bytes: Vec<u8>,
}

impl Capture {
    /// Encodes into columnar chunks of about `target_bytes` (never over 1 MiB unless one row
    /// is), each with the rows of a contiguous range of key groups, ordered by key group. The base
    /// chunks cover every base group, also those without rows.
    pub fn encode(&self, target_bytes: usize, buffers: &mut EncodeBuffers) -> Vec<EncodedChunk> {
        let rows = RowsRef { layout: &self.layout, words: &self.words, bytes: &self.bytes };
        encode_rows(rows, &self.base_groups, target_bytes, buffers)
    }

    /// Number of rows, tombstones included.
    pub fn rows(&self) -> u64 {
        (self.words.len() / self.layout.width) as u64
    }

    /// Rows of base groups.
    pub fn base_rows(&self) -> u64 {
        if !self.base_groups.contains(&true) {
            return 0;
        }
        let rows = RowsRef { layout: &self.layout, words: &self.words, bytes: &self.bytes };
        (0..self.rows() as usize)
            .filter(|row| self.base_groups[usize::from(self.layout.group(rows.hash(*row)))])
            .count() as u64
    }

    /// True without rows; there may be base groups nevertheless.
    pub fn is_empty(&self) -> bool {
        self.rows() == 0
    }
}

/// Memory that one encoding leaves to the next: fresh pages would cost the writer as much as the
/// encoding, and giving pages back interrupts the thread that works on the tables.
#[derive(Default)]
pub struct EncodeBuffers {
    groups: Vec<u16>,
    order: Vec<u32>,
    chunks: Vec<Vec<u8>>,
}

impl EncodeBuffers {
    /// Takes the bytes of a chunk that is no longer needed. That of a huge row is given back: few
    /// chunks would ever fill it.
    pub fn recycle(&mut self, bytes: Vec<u8>) {
        if self.chunks.len() < SPARE_CHUNKS && bytes.capacity() <= 2 * MAX_CHUNK_BYTES {
            self.chunks.push(bytes);
        }
    }
}

/// Rows become chunks, by key group; the rows of one group keep their order.
pub(super) fn encode_rows(
    rows: RowsRef<'_>,
    base_groups: &[bool],
    target_bytes: usize,
    buffers: &mut EncodeBuffers,
) -> Vec<EncodedChunk> {
    let EncodeBuffers { groups: row_groups, order, chunks: spare } = buffers;
    let layout = rows.layout;
    let groups = usize::from(layout.key_groups);
    let count = rows.words.len() / layout.width;
    let target = target_bytes.clamp(1, MAX_CHUNK_BYTES);
    row_groups.clear();
    row_groups.extend((0..count).map(|row| layout.group(rows.hash(row))));
    let mut ends = vec![0_usize; groups + 1];
    for group in row_groups.iter() {
        ends[usize::from(*group) + 1] += 1;
    }
    for group in 0..groups {
        ends[group + 1] += ends[group];
    }
    order.resize(count, 0);
    let mut next = ends.clone();
    for (row, group) in row_groups.iter().enumerate() {
        order[next[usize::from(*group)]] = row as u32;
        next[usize::from(*group)] += 1;
    }
    let fixed = (!layout.has_bytes()).then(|| rows_len(rows, count));
    let len_of = |row: u32| fixed.unwrap_or_else(|| rows.encoded_len(row as usize));

    let mut chunks = Vec::new();
    let mut group = 0;
    while group < groups {
        // A stretch of groups of one kind, cut wherever the bytes reach the target.
        let base = base_groups.get(group).copied().unwrap_or(false);
        let stretch = (group..groups)
            .find(|other| base_groups.get(*other).copied().unwrap_or(false) != base)
            .unwrap_or(groups);
        let kind = if base { ChunkKind::Base } else { ChunkKind::Delta };
        let mut cut = Cut { first_group: group, first_row: ends[group], counts: Vec::new() };
        let mut bytes = 0;
        let mut finish = |cut: &Cut, end: usize| {
            let last = cut.first_group + cut.counts.len() - 1;
            chunks.push(encode(
                rows,
                &order[cut.first_row..end],
                kind,
                cut.first_group as u16..=last as u16,
                &cut.counts,
                spare.pop().unwrap_or_default(),
            ));
        };
        for current in group..stretch {
            cut.counts.push(0);
            let start = ends[current];
            for (offset, row) in order[start..ends[current + 1]].iter().enumerate() {
                let at = start + offset;
                let len = len_of(*row);
                if bytes > 0 && bytes + len > target {
                    if *cut.counts.last().unwrap_or(&0) == 0 && cut.counts.len() > 1 {
                        cut.counts.pop();
                    }
                    finish(&cut, at);
                    cut = Cut { first_group: current, first_row: at, counts: vec![0] };
                    bytes = 0;
                }
                bytes += len;
                if let Some(count) = cut.counts.last_mut() {
                    *count += 1;
                }
            }
        }
        if base || ends[stretch] > cut.first_row {
            finish(&cut, ends[stretch]);
        }
        group = stretch;
    }
    chunks
}

/// The chunk being filled.
struct Cut {
    first_group: usize,
    first_row: usize,
    /// Rows of each group so far.
    counts: Vec<u32>,
}

fn rows_len(rows: RowsRef<'_>, count: usize) -> usize {
    if count == 0 { 1 } else { rows.encoded_len(0) }
}

/// The value of a bytes cell of a captured row: what lies at its offset in `bytes`.
#[inline]
pub(crate) fn cell_bytes(bytes: &[u8], cell: u64) -> &[u8] {
    let value = |start: usize| {
        let len = bytes.get(start..start.checked_add(4)?)?.try_into().ok()?;
        let start = start + 4;
        bytes.get(start..start.checked_add(u32::from_le_bytes(len) as usize)?)
    };
    if cell == NO_HANDLE { &[] } else { value(cell as usize).unwrap_or_default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_a_huge_row_is_given_back() {
        let mut buffers = EncodeBuffers::default();
        buffers.recycle(Vec::with_capacity(MAX_CHUNK_BYTES));
        buffers.recycle(Vec::with_capacity(64 * MAX_CHUNK_BYTES));
        assert_eq!(buffers.chunks.len(), 1);
    }
}
