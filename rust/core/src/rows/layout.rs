//! How a row lies in memory.
//!
//! ```text
//! word 0        header   63 ── set bits (30) ── 34 │ 33 mark │ 32 live │ 31 ── generation ── 0
//! word 1..      key      integer: 1 word; tuple of n integers: n words;
//!                        else 2 words:  [ length u32 | first 4 bytes ]
//!                          up to 12 B:  [ next 8 bytes, zero-filled  ]
//!                          longer:      [ handle u32 | hash >> 32    ]
//! then          cells    one word a column; of a bytes column the handle, or NO_HANDLE if empty
//! ```
//!
//! live mark: `0 0` empty slot, `1 0` live, `1 1` live and born in this generation from nothing
//! (no checkpoint knows the key), `0 1` deleted. A mark of a live row counts only while its
//! generation is the current one.

use crate::hash::{hash_bytes, hash_u64, hash_words, key_group};
use crate::{Error, ErrorKind, Result};

use super::slab::Slab;
use super::{ColumnType, KeyType, Keys, Schema, tuple};

pub(crate) const GENERATION: u64 = 0xFFFF_FFFF;
pub(crate) const LIVE: u64 = 1 << 32;
pub(crate) const MARK: u64 = 1 << 33;
pub(crate) const OCCUPIED: u64 = LIVE | MARK;
pub(crate) const DELETED: u64 = MARK;
pub(crate) const SET: u64 = !(GENERATION | OCCUPIED);

/// The cell of an empty byte string.
pub(crate) const NO_HANDLE: u64 = u64::MAX;

/// Longest key that lies in the row itself.
pub(crate) const INLINE_BYTES: usize = 12;

/// Bytes of one row that a chunk, in all its parts, can surely hold.
const ROW_BYTES: usize = (1 << 30) - (1 << 20);

/// The header's bit of a column.
#[inline]
pub(crate) const fn set_bit(column: usize) -> u64 {
    1 << (34 + column)
}

#[inline]
pub(crate) fn generation(header: u64) -> u32 {
    header as u32
}

/// A schema turned into offsets.
#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) schema: Schema,
    pub(crate) fingerprint: u64,
    pub(crate) key_groups: u16,
    /// Words of the key if it is made of integers.
    pub(crate) integer_key: Option<usize>,
    /// Words of the key in a row.
    pub(crate) key_words: usize,
    /// Word of the first cell.
    pub(crate) cells: usize,
    /// Words of a row that mean something.
    pub(crate) width: usize,
    /// Words from row to row.
    pub(crate) stride: usize,
    /// Bits of all columns.
    pub(crate) all_set: u64,
    /// Words of the cells of bytes columns.
    pub(crate) bytes_cells: Vec<usize>,
    /// Longest key or value.
    pub(crate) max_bytes_len: usize,
}

impl Layout {
    pub(crate) fn new(schema: Schema, key_groups: u16) -> Result<Self> {
        schema.validate()?;
        if !key_groups.is_power_of_two() {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("{key_groups} key groups; the number must be a power of two"),
            ));
        }
        let integer_key = schema.key.words();
        let key_words = integer_key.unwrap_or(2);
        let cells = 1 + key_words;
        let width = cells + schema.columns.len();
        // Rows of 32 and 64 bytes never straddle cache lines; other widths would waste too much.
        let stride = match width {
            3 => 4,
            7 => 8,
            other => other,
        };
        let bytes_cells: Vec<usize> = schema
            .columns
            .iter()
            .enumerate()
            .filter(|(_, (_, column))| *column == ColumnType::Bytes)
            .map(|(index, _)| cells + index)
            .collect();
        Ok(Self {
            fingerprint: schema.fingerprint(),
            key_groups,
            integer_key,
            key_words,
            cells,
            width,
            stride,
            all_set: (0..schema.columns.len()).map(set_bit).sum(),
            max_bytes_len: ROW_BYTES / (bytes_cells.len() + 1),
            bytes_cells,
            schema,
        })
    }

    /// Type of a column.
    #[inline]
    pub(crate) fn column(&self, index: usize) -> ColumnType {
        self.schema.columns[index].1
    }

    pub(crate) fn has_bytes(&self) -> bool {
        self.integer_key.is_none() || !self.bytes_cells.is_empty()
    }

    pub(crate) fn group(&self, hash: u64) -> u16 {
        key_group(hash, self.key_groups)
    }

    /// The hash of a row's key; of a long byte key only the upper half (the lower is zero).
    #[inline]
    pub(crate) fn upper_hash(&self, row: &[u64]) -> u64 {
        match self.integer_key {
            Some(1) => hash_u64(row[1]),
            Some(words) => hash_words(&row[1..1 + words]),
            None if key_len(row) > INLINE_BYTES => row[2] & !0xFFFF_FFFF,
            None => {
                let (bytes, len) = inline_key(row);
                hash_bytes(&bytes[..len])
            }
        }
    }

    /// The hash of a row's key.
    #[inline]
    pub(crate) fn full_hash(&self, row: &[u64], slab: &Slab) -> u64 {
        if self.integer_key.is_none() && key_len(row) > INLINE_BYTES {
            hash_bytes(slab.get(row[2] as u32))
        } else {
            self.upper_hash(row)
        }
    }

    /// Calls `with` with the bytes of a byte key.
    #[inline]
    pub(crate) fn with_key_bytes<T>(
        &self,
        row: &[u64],
        slab: &Slab,
        with: impl FnOnce(&[u8]) -> T,
    ) -> T {
        if key_len(row) > INLINE_BYTES {
            with(slab.get(row[2] as u32))
        } else {
            let (bytes, len) = inline_key(row);
            with(&bytes[..len])
        }
    }

    /// The key's first element, of a table whose key starts with an i64.
    #[inline]
    pub(crate) fn first_i64(&self, row: &[u64], slab: &Slab) -> i64 {
        match self.integer_key {
            Some(_) => row[1] as i64,
            None => self.with_key_bytes(row, slab, tuple::first_i64),
        }
    }

    /// Number of keys, or why they are not keys of this table.
    pub(crate) fn check_keys(&self, keys: &Keys<'_>) -> Result<usize> {
        let wrong = |given: &str| {
            Err(Error::new(
                ErrorKind::TypeMismatch,
                format!(
                    "the keys are {given}, and the table's key type is {}; convert them first",
                    self.schema.key.name()
                ),
            ))
        };
        match (keys, &self.schema.key) {
            (Keys::I64(keys), KeyType::I64) => Ok(keys.len()),
            (Keys::U64(keys), KeyType::U64) => Ok(keys.len()),
            (Keys::Words { width, words }, KeyType::Tuple(elements))
                if self.integer_key.is_some() =>
            {
                if *width != elements.len() {
                    return Err(Error::new(
                        ErrorKind::TypeMismatch,
                        format!(
                            "the keys have {width} elements each, and the table's key type {} has \
                             {}",
                            self.schema.key.name(),
                            elements.len()
                        ),
                    ));
                }
                if words.len() % width != 0 {
                    return Err(Error::new(
                        ErrorKind::LengthMismatch,
                        format!("{} words are not a whole number of keys of {width}", words.len()),
                    ));
                }
                Ok(words.len() / width)
            }
            (Keys::Bytes(bytes), key) if self.integer_key.is_none() => {
                let count = bytes.check("keys", self.max_bytes_len)?;
                match key {
                    KeyType::Str => bytes.check_utf8()?,
                    KeyType::Tuple(elements) => {
                        for index in 0..count {
                            tuple::check(elements, bytes.get(index))?;
                        }
                    }
                    _ => {}
                }
                Ok(count)
            }
            (Keys::I64(_), _) => wrong("i64"),
            (Keys::U64(_), _) => wrong("u64"),
            (Keys::Bytes(_), _) => wrong("byte strings"),
            (Keys::Words { width, .. }, _) => wrong(&format!("tuples of {width} integers")),
        }
    }
}

#[inline]
pub(crate) fn key_len(row: &[u64]) -> usize {
    (row[1] & 0xFFFF_FFFF) as usize
}

/// Bytes and length of a key that lies in its row.
#[inline]
fn inline_key(row: &[u64]) -> ([u8; 16], usize) {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&((row[1] >> 32) as u32).to_le_bytes());
    bytes[4..12].copy_from_slice(&row[2].to_le_bytes());
    (bytes, key_len(row).min(INLINE_BYTES))
}

/// The two words of a byte key; the second lacks the handle if the key is long.
#[inline]
pub(crate) fn key_view(key: &[u8], hash: u64) -> [u64; 2] {
    let mut bytes = [0_u8; 12];
    let shown = key.len().min(INLINE_BYTES);
    bytes[..shown].copy_from_slice(&key[..shown]);
    let (prefix, rest) = (&bytes[..4], &bytes[4..]);
    let first = key.len() as u64 & 0xFFFF_FFFF
        | u64::from(u32::from_le_bytes([prefix[0], prefix[1], prefix[2], prefix[3]])) << 32;
    if key.len() > INLINE_BYTES {
        return [first, hash & !0xFFFF_FFFF];
    }
    let rest = [rest[0], rest[1], rest[2], rest[3], rest[4], rest[5], rest[6], rest[7]];
    [first, u64::from_le_bytes(rest)]
}
