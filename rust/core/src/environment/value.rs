//! How a value is sealed: each ends with its number of parts and a checksum bound to its place.
//!
//! ```text
//! ┌─────────────┬───────────────┬──────────────────────────────────────────────────────┐
//! │ payload     │ parts u32 LE  │ checksum u64 LE                                      │
//! └─────────────┴───────────────┴──────────────────────────────────────────────────────┘
//!                checksum = XXH3-64 of payload, seeded with XXH3-64 of (database | 0 | key | parts)
//! ```
//!
//! so that a value that was moved to another key, or is part of another whole, does not pass.
//! Values longer than `MAX_PART_BYTES` are split: LMDB looks for contiguous free pages, and that
//! search is slow above 1 MiB. Parts are numbered from 0, and each says how many there are.

use xxhash_rust::xxh3::{Xxh3, xxh3_64_with_seed};

use super::lmdb::Database;

/// Bytes after each payload: the number of parts, the checksum.
pub(crate) const TRAILER_BYTES: usize = 4 + 8;

/// Longest payload of one LMDB value: with trailer and LMDB's page header just 256 pages of 4 KiB.
pub(crate) const MAX_PART_BYTES: usize = (1 << 20) - 16 - TRAILER_BYTES;

/// The last 12 bytes of a stored value.
pub(crate) fn trailer(
    database: impl Database,
    key: &[u8],
    payload: &[&[u8]; 2],
    parts: u32,
) -> [u8; TRAILER_BYTES] {
    let checksum = checksum(payload, seed(database, key, parts));
    let mut out = [0; TRAILER_BYTES];
    let (number, hash) = out.split_at_mut(4);
    number.copy_from_slice(&parts.to_le_bytes());
    hash.copy_from_slice(&checksum.to_le_bytes());
    out
}

/// That of a payload in two pieces, which need not be joined for it.
fn checksum([front, back]: &[&[u8]; 2], seed: u64) -> u64 {
    if front.is_empty() {
        return xxh3_64_with_seed(back, seed);
    }
    let mut hasher = Xxh3::with_seed(seed);
    hasher.update(front);
    hasher.update(back);
    hasher.digest()
}

fn seed(database: impl Database, key: &[u8], parts: u32) -> u64 {
    let mut hasher = Xxh3::new();
    hasher.update(database.name().as_bytes());
    hasher.update(&[0]);
    hasher.update(key);
    hasher.update(&parts.to_le_bytes());
    hasher.digest()
}

/// Payload and number of parts of a stored value, or what is wrong with it.
pub(crate) fn open_value<'a>(
    database: impl Database,
    key: &[u8],
    value: &'a [u8],
) -> std::result::Result<(&'a [u8], u32), String> {
    let Some((rest, checksum)) = value.split_last_chunk::<8>() else {
        return Err(format!("{} bytes are too few for a value", value.len()));
    };
    let Some((payload, parts)) = rest.split_last_chunk::<4>() else {
        return Err(format!("{} bytes are too few for a value", value.len()));
    };
    let (parts, expected) = (u32::from_le_bytes(*parts), u64::from_le_bytes(*checksum));
    let found = xxh3_64_with_seed(payload, seed(database, key, parts));
    if found != expected {
        return Err(format!("its checksum is {expected:016x}, but its bytes give {found:016x}"));
    }
    Ok((payload, parts))
}
