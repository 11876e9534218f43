//! Batches going into a table and coming out of it.
//!
//! Integer keys travel as words. Str and bytes keys travel as byte strings. A tuple of integers
//! travels as words, row-major (`width` words a key, i64 as its bits); any other tuple travels as
//! one byte string in the encoding of [`KeysBuf::encode_tuple`] (made by the caller's layer).

use crate::hash::{hash_bytes, hash_u64, hash_words};
use crate::{Error, ErrorKind, Result};

/// Many byte strings: string `i` is `data[offsets[i]..offsets[i + 1]]`.
#[derive(Debug, Clone, Copy)]
pub struct Bytes<'a> {
    /// One more entry than there are strings, ascending.
    pub offsets: &'a [u64],
    /// The bytes of all strings, one after the other.
    pub data: &'a [u8],
}

impl<'a> Bytes<'a> {
    /// Number of strings.
    pub fn len(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    /// True without strings.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// String `index`; empty if there is none or its offsets are no range of the data.
    #[inline]
    pub fn get(&self, index: usize) -> &'a [u8] {
        match (self.offsets.get(index), self.offsets.get(index + 1)) {
            (Some(start), Some(end)) => {
                self.data.get(*start as usize..*end as usize).unwrap_or_default()
            }
            _ => &[],
        }
    }

    /// The number of strings, if offsets and data fit and no string is longer than `longest`.
    pub(crate) fn check(&self, what: &str, longest: usize) -> Result<usize> {
        let Some((first, rest)) = self.offsets.split_first() else {
            return Err(Error::new(
                ErrorKind::LengthMismatch,
                format!("the {what} have no offsets; there must be one more than strings"),
            ));
        };
        let mut start = *first;
        for &end in rest {
            if end < start || end - start > longest as u64 {
                return Err(Error::new(
                    ErrorKind::CapacityExceeded,
                    format!(
                        "among the {what} is a string from offset {start} to {end}; offsets must \
                         ascend and a string may have {longest} bytes"
                    ),
                )
                .with_bound(None, end.saturating_sub(start), longest as u64));
            }
            start = end;
        }
        if start > self.data.len() as u64 {
            return Err(Error::new(
                ErrorKind::LengthMismatch,
                format!("the {what} end at offset {start} of {} bytes of data", self.data.len()),
            ));
        }
        Ok(rest.len())
    }

    /// Errors unless every string is UTF-8.
    pub(crate) fn check_utf8(&self) -> Result<()> {
        let wrong = |index: usize| {
            Error::new(
                ErrorKind::TypeMismatch,
                format!("string {index} is not valid UTF-8; use a bytes key for raw bytes"),
            )
        };
        // All at once when possible: a multi-byte character cut by an offset shows as a string
        // that starts with a continuation byte.
        let (Some(&first), Some(&last)) = (self.offsets.first(), self.offsets.last()) else {
            return Ok(());
        };
        let all = self.data.get(first as usize..last as usize).unwrap_or_default();
        if let Ok(text) = std::str::from_utf8(all)
            && self.offsets.iter().all(|&at| text.is_char_boundary((at - first) as usize))
        {
            return Ok(());
        }
        for index in 0..self.len() {
            std::str::from_utf8(self.get(index)).map_err(|_| wrong(index))?;
        }
        Ok(())
    }
}

/// The keys of a batch, in the form that the table's key type asks for.
#[derive(Debug, Clone, Copy)]
pub enum Keys<'a> {
    /// For `KeyType::I64`.
    I64(&'a [i64]),
    /// For `KeyType::U64`.
    U64(&'a [u64]),
    /// For `Bytes`, `Str` and tuples that hold one of them.
    Bytes(Bytes<'a>),
    /// For tuples of integers: `width` words a key.
    Words {
        /// Number of elements of the tuple.
        width: usize,
        /// `width` words a key, row after row.
        words: &'a [u64],
    },
}

/// Keys that a table hands out.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub enum KeysBuf {
    I64(Vec<i64>),
    U64(Vec<u64>),
    Bytes { offsets: Vec<u64>, data: Vec<u8> },
    Words { width: usize, words: Vec<u64> },
}

/// One value for a whole batch.
#[derive(Debug, Clone, Copy, PartialEq)]
#[allow(missing_docs)]
pub enum Scalar<'a> {
    I64(i64),
    U64(u64),
    F64(f64),
    F32(f32),
    U32(u32),
    Bool(bool),
    Bytes(&'a [u8]),
}

/// The values of one column for a batch: one each, or one for all. The type must be exactly the
/// column's; conversions that lose nothing (a Python int for an f64 column) are the caller's.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs)]
pub enum Operand<'a> {
    I64(&'a [i64]),
    U64(&'a [u64]),
    F64(&'a [f64]),
    F32(&'a [f32]),
    U32(&'a [u32]),
    Bool(&'a [bool]),
    Bytes(Bytes<'a>),
    Scalar(Scalar<'a>),
}

/// What an update does to a cell. A cell that was never set takes the value as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// cell += value (i64, u64, f64, f32, u32); refuses overflow, NaN and infinities.
    Add,
    /// cell = min(cell, value); numbers only.
    Min,
    /// cell = max(cell, value); numbers only.
    Max,
    /// Keeps the value that came first.
    First,
    /// Keeps the value that came last: a plain put of this column.
    Last,
}

/// One column's part in a batch update. No column may occur twice in one update.
#[derive(Debug, Clone, Copy)]
pub struct Update<'a> {
    /// Index of the column in the schema.
    pub column: usize,
    /// What to do.
    pub op: Op,
    /// With which values.
    pub operand: Operand<'a>,
}

/// The values of a column that a table hands out, one entry a row.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub enum ColumnData {
    I64(Vec<i64>),
    U64(Vec<u64>),
    F64(Vec<f64>),
    F32(Vec<f32>),
    U32(Vec<u32>),
    Bool(Vec<bool>),
    Bytes { offsets: Vec<u64>, data: Vec<u8> },
}

/// A column handed out: values, and which of them are set (an unset cell holds 0 or "").
#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    /// One value a row.
    pub data: ColumnData,
    /// `None` when every cell is set.
    pub validity: Option<Vec<bool>>,
}

/// Rows handed out by a scan.
#[derive(Debug, Clone, PartialEq)]
pub struct Rows {
    /// The keys, in hash order (ties by key), so by ascending key group.
    pub keys: KeysBuf,
    /// The columns, in the schema's order.
    pub columns: Vec<Column>,
}

impl Rows {
    /// A copy of the rows of a range, which must lie in them.
    pub fn slice(&self, range: std::ops::Range<usize>) -> Self {
        let keys = match &self.keys {
            KeysBuf::I64(keys) => KeysBuf::I64(keys[range.clone()].to_vec()),
            KeysBuf::U64(keys) => KeysBuf::U64(keys[range.clone()].to_vec()),
            KeysBuf::Words { width, words } => KeysBuf::Words {
                width: *width,
                words: words[range.start * width..range.end * width].to_vec(),
            },
            KeysBuf::Bytes { offsets, data } => {
                let (offsets, data) = slice_bytes(offsets, data, range.clone());
                KeysBuf::Bytes { offsets, data }
            }
        };
        let columns = self.columns.iter().map(|column| column.slice(range.clone())).collect();
        Self { keys, columns }
    }
}

impl Column {
    fn slice(&self, range: std::ops::Range<usize>) -> Self {
        let data = match &self.data {
            ColumnData::I64(values) => ColumnData::I64(values[range.clone()].to_vec()),
            ColumnData::U64(values) => ColumnData::U64(values[range.clone()].to_vec()),
            ColumnData::F64(values) => ColumnData::F64(values[range.clone()].to_vec()),
            ColumnData::F32(values) => ColumnData::F32(values[range.clone()].to_vec()),
            ColumnData::U32(values) => ColumnData::U32(values[range.clone()].to_vec()),
            ColumnData::Bool(values) => ColumnData::Bool(values[range.clone()].to_vec()),
            ColumnData::Bytes { offsets, data } => {
                let (offsets, data) = slice_bytes(offsets, data, range.clone());
                ColumnData::Bytes { offsets, data }
            }
        };
        let validity = self.validity.as_ref().map(|validity| validity[range].to_vec());
        Self { data, validity: validity.filter(|validity| validity.contains(&false)) }
    }
}

fn slice_bytes(offsets: &[u64], data: &[u8], range: std::ops::Range<usize>) -> (Vec<u64>, Vec<u8>) {
    let offsets = &offsets[range.start..=range.end];
    let (first, last) = (offsets[0], offsets[offsets.len() - 1]);
    let data = data[first as usize..last as usize].to_vec();
    (offsets.iter().map(|offset| offset - first).collect(), data)
}

/// The hash of each key of a batch.
pub fn hashes(keys: &Keys<'_>) -> Vec<u64> {
    match keys {
        Keys::I64(keys) => keys.iter().map(|key| hash_u64(*key as u64)).collect(),
        Keys::U64(keys) => keys.iter().map(|key| hash_u64(*key)).collect(),
        Keys::Words { width, words } => {
            words.chunks_exact((*width).max(1)).map(hash_words).collect()
        }
        Keys::Bytes(keys) => (0..keys.len()).map(|row| hash_bytes(keys.get(row))).collect(),
    }
}
