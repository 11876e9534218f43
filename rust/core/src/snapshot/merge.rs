//! Many small deltas become few.

use std::collections::HashMap;

use super::capture::{EncodeBuffers, encode_rows};
use super::chunk::{ChunkReader, RowBlock, RowsRef, corrupt};
use super::{ChunkKind, EncodedChunk};
use crate::Result;
use crate::rows::Schema;
use crate::rows::layout::{INLINE_BYTES, Layout, NO_HANDLE};

/// A delta on its way into a merge.
#[derive(Debug, Clone, Copy)]
pub struct DeltaChunk<'a> {
    /// The chunk.
    pub bytes: &'a [u8],
    /// By key group whether its rows still count: those that a newer base holds must go.
    pub groups: &'a [bool],
}

/// Merges delta chunks (oldest first) into fewer: the newest row of a key wins, tombstones stay.
pub fn merge(
    schema: &Schema,
    key_groups: u16,
    chunks: &[DeltaChunk<'_>],
    target_bytes: usize,
) -> Result<Vec<EncodedChunk>> {
    let layout = Layout::new(schema.clone(), key_groups)?;
    let width = layout.width;
    let mut words: Vec<u64> = Vec::new();
    let mut bytes: Vec<u8> = Vec::new();
    let mut hashes: Vec<u64> = Vec::new();
    // By hash the newest row of a key; rows of different keys and one hash are chained.
    let mut newest: HashMap<u64, Vec<usize>> = HashMap::new();
    let mut block = RowBlock::default();
    for chunk in chunks {
        let mut reader = ChunkReader::new(&layout, chunk.bytes)?;
        if reader.kind() != ChunkKind::Delta {
            return Err(corrupt("a base stands where a delta should"));
        }
        while reader.next_block(&mut block)? {
            let shift = bytes.len() as u64;
            bytes.extend_from_slice(&block.bytes);
            for (row, hash) in block.words.chunks_exact(width).zip(&block.hashes) {
                if chunk.groups.get(usize::from(layout.group(*hash))) != Some(&true) {
                    continue;
                }
                let at = words.len();
                words.extend_from_slice(row);
                if layout.integer_key.is_none() && (row[1] & 0xFFFF_FFFF) as usize > INLINE_BYTES {
                    words[at + 2] += shift;
                }
                for cell in &layout.bytes_cells {
                    if words[at + cell] != NO_HANDLE {
                        words[at + cell] += shift;
                    }
                }
                let rows = RowsRef { layout: &layout, words: &words, bytes: &bytes };
                let same = newest.entry(*hash).or_default();
                let index = at / width;
                match same.iter().position(|other| same_key(rows, *other, index)) {
                    Some(position) => {
                        let other = same[position];
                        words.copy_within(at..at + width, other * width);
                        words.truncate(at);
                    }
                    None => {
                        same.push(index);
                        hashes.push(*hash);
                    }
                }
            }
        }
    }
    let mut order: Vec<usize> = (0..hashes.len()).collect();
    order.sort_by_key(|row| hashes[*row]);
    let sorted: Vec<u64> =
        order.iter().flat_map(|row| &words[row * width..(row + 1) * width]).copied().collect();
    let rows = RowsRef { layout: &layout, words: &sorted, bytes: &bytes };
    Ok(encode_rows(rows, &[], target_bytes, &mut EncodeBuffers::default()))
}

fn same_key(rows: RowsRef<'_>, one: usize, other: usize) -> bool {
    let (one, other) = (rows.row(one), rows.row(other));
    match rows.layout.integer_key {
        Some(width) => one[1..=width] == other[1..=width],
        None => rows.with_key(one, |key| rows.with_key(other, |other| key == other)),
    }
}
