//! Rows by key: in the order of the numbers, byte strings or tuples that their keys are.

use super::KeyType;
use crate::rows::layout::Layout;
use crate::rows::slab::Slab;

const SIGN: u64 = 1 << 63;

/// The offsets of rows, sorted by key.
///
/// The first 16 bytes of a key lie beside its offset: they decide nearly always, so that sorting
/// walks through memory in order instead of jumping from row to row.
pub(super) fn by_key(layout: &Layout, words: &[u64], slab: &Slab, rows: &mut [usize]) {
    let mut prefixed: Vec<([u64; 2], usize)> =
        rows.iter().map(|at| (prefix(layout, &words[*at..at + layout.width], slab), *at)).collect();
    let signed = signed_elements(layout);
    prefixed.sort_unstable_by(|(one, at), (other, other_at)| {
        one.cmp(other).then_with(|| {
            let row = &words[*at..at + layout.width];
            let other = &words[*other_at..other_at + layout.width];
            match layout.integer_key {
                Some(width) => signed
                    .iter()
                    .zip(row[1..=width].iter().zip(&other[1..=width]))
                    .map(|(sign, (word, other))| (word ^ sign).cmp(&(other ^ sign)))
                    .find(|order| order.is_ne())
                    .unwrap_or(std::cmp::Ordering::Equal),
                None => layout.with_key_bytes(row, slab, |key| {
                    layout.with_key_bytes(other, slab, |other| key.cmp(other))
                }),
            }
        })
    });
    for (row, (_, at)) in rows.iter_mut().zip(prefixed) {
        *row = at;
    }
}

/// For each word of an integer key the bit that makes unsigned comparison right.
fn signed_elements(layout: &Layout) -> Vec<u64> {
    let sign = |key: &KeyType| if *key == KeyType::I64 { SIGN } else { 0 };
    match &layout.schema.key {
        KeyType::Tuple(elements) => elements.iter().map(sign).collect(),
        key => vec![sign(key)],
    }
}

/// The first 16 bytes of a key in an order-preserving form.
fn prefix(layout: &Layout, row: &[u64], slab: &Slab) -> [u64; 2] {
    let sign = |key: &KeyType| if *key == KeyType::I64 { SIGN } else { 0 };
    match (&layout.schema.key, layout.integer_key) {
        (KeyType::Tuple(elements), Some(width)) => {
            let word = |index: usize| {
                if index < width { row[1 + index] ^ sign(&elements[index]) } else { 0 }
            };
            [word(0), word(1)]
        }
        (key, Some(_)) => [row[1] ^ sign(key), 0],
        (_, None) => layout.with_key_bytes(row, slab, |key| {
            let mut bytes = [0; 16];
            let shown = key.len().min(16);
            bytes[..shown].copy_from_slice(&key[..shown]);
            let all = u128::from_be_bytes(bytes);
            [(all >> 64) as u64, all as u64]
        }),
    }
}
