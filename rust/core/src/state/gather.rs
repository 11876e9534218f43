//! Rows on their way out: cells of many rows become columns.

use std::cmp::Ordering;

use super::{Column, ColumnData, ColumnType, KeyType, KeysBuf, Rows};
use crate::rows::layout::{Layout, NO_HANDLE, set_bit};
use crate::rows::slab::Slab;

/// The columns of the rows at these offsets; `usize::MAX` stands for a row that is not there.
pub(super) fn columns(layout: &Layout, words: &[u64], slab: &Slab, rows: &[usize]) -> Vec<Column> {
    (0..layout.schema.columns.len()).map(|index| column(layout, words, slab, rows, index)).collect()
}

fn column(layout: &Layout, words: &[u64], slab: &Slab, rows: &[usize], index: usize) -> Column {
    let bit = set_bit(index);
    let cell = layout.cells + index;
    let is_set = |at: usize| at != usize::MAX && words[at] & bit != 0;
    let validity: Vec<bool> = rows.iter().map(|at| is_set(*at)).collect();
    let read = |at: &usize| if is_set(*at) { words[*at + cell] } else { 0 };
    let data = match layout.column(index) {
        ColumnType::I64 => ColumnData::I64(rows.iter().map(|at| read(at) as i64).collect()),
        ColumnType::U64 => ColumnData::U64(rows.iter().map(read).collect()),
        ColumnType::F64 => {
            ColumnData::F64(rows.iter().map(|at| f64::from_bits(read(at))).collect())
        }
        ColumnType::F32 => {
            ColumnData::F32(rows.iter().map(|at| f32::from_bits(read(at) as u32)).collect())
        }
        ColumnType::U32 => ColumnData::U32(rows.iter().map(|at| read(at) as u32).collect()),
        ColumnType::Bool => ColumnData::Bool(rows.iter().map(|at| read(at) != 0).collect()),
        ColumnType::Bytes => {
            let mut offsets = Vec::with_capacity(rows.len() + 1);
            let mut data = Vec::new();
            offsets.push(0);
            for at in rows {
                if is_set(*at) && words[at + cell] != NO_HANDLE {
                    data.extend_from_slice(slab.get(words[at + cell] as u32));
                }
                offsets.push(data.len() as u64);
            }
            ColumnData::Bytes { offsets, data }
        }
    };
    Column { data, validity: validity.contains(&false).then_some(validity) }
}

/// Keys and columns of the rows at these offsets.
pub(super) fn rows(layout: &Layout, words: &[u64], slab: &Slab, rows: &[usize]) -> Rows {
    let keys = match (&layout.schema.key, layout.integer_key) {
        (KeyType::I64, _) => KeysBuf::I64(rows.iter().map(|at| words[at + 1] as i64).collect()),
        (KeyType::U64, _) => KeysBuf::U64(rows.iter().map(|at| words[at + 1]).collect()),
        (_, Some(width)) => KeysBuf::Words {
            width,
            words: rows.iter().flat_map(|at| &words[at + 1..at + 1 + width]).copied().collect(),
        },
        (_, None) => {
            let mut offsets = Vec::with_capacity(rows.len() + 1);
            let mut data = Vec::new();
            offsets.push(0);
            for at in rows {
                let row = &words[*at..at + layout.width];
                layout.with_key_bytes(row, slab, |key| data.extend_from_slice(key));
                offsets.push(data.len() as u64);
            }
            KeysBuf::Bytes { offsets, data }
        }
    };
    Rows { keys, columns: columns(layout, words, slab, rows) }
}

/// The offsets that differ, without `usize::MAX`, in the order of first occurrence; and the index
/// of each one's first occurrence.
pub(super) fn distinct(rows: &[usize]) -> (Vec<usize>, Vec<i64>) {
    let places = (rows.len() * 2).next_power_of_two().max(2);
    let shift = 64 - places.trailing_zeros();
    let mut seen = vec![usize::MAX; places];
    let (mut distinct, mut indices) = (Vec::new(), Vec::new());
    for (index, &at) in rows.iter().enumerate().filter(|(_, at)| **at != usize::MAX) {
        let mut place = ((at as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> shift) as usize;
        while seen[place] != at && seen[place] != usize::MAX {
            place = (place + 1) % places;
        }
        if seen[place] == usize::MAX {
            seen[place] = at;
            distinct.push(at);
            indices.push(index as i64);
        }
    }
    (distinct, indices)
}

/// The order of two keys of one hash.
pub(super) fn compare_keys(
    layout: &Layout,
    words: &[u64],
    slab: &Slab,
    at: usize,
    other: usize,
) -> Ordering {
    let row = &words[at..at + layout.width];
    let other = &words[other..other + layout.width];
    match layout.integer_key {
        Some(width) => row[1..=width].cmp(&other[1..=width]),
        None => layout.with_key_bytes(row, slab, |key| {
            layout.with_key_bytes(other, slab, |other| key.cmp(other))
        }),
    }
}
