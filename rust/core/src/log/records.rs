//! Records as columns: what is written, and what is read.

use crate::{Error, ErrorKind, Result};

/// Byte strings of which some may be null.
#[derive(Debug, Clone, Copy)]
pub struct ByteColumn<'a> {
    data: &'a [u8],
    shape: Shape<'a>,
    /// One a row: false is null. `None`: no row is null.
    valid: Option<&'a [bool]>,
}

/// Where each byte string lies.
#[derive(Debug, Clone, Copy)]
enum Shape<'a> {
    /// All have this length.
    Fixed { rows: usize, width: usize },
    /// Row `i` is `data[offsets[i]..offsets[i + 1]]`.
    Offsets(&'a [i64]),
}

impl<'a> ByteColumn<'a> {
    /// Strings of one length, one after the other.
    pub fn fixed(rows: usize, width: usize, data: &'a [u8]) -> Result<Self> {
        if rows.checked_mul(width) != Some(data.len()) {
            let text = format!("{} bytes are not {rows} rows of {width}", data.len());
            return Err(Error::new(ErrorKind::LengthMismatch, text));
        }
        Ok(Self { data, shape: Shape::Fixed { rows, width }, valid: None })
    }

    /// Row `i` is `data[offsets[i]..offsets[i + 1]]`; false in `valid` is null.
    pub fn new(offsets: &'a [i64], data: &'a [u8], valid: Option<&'a [bool]>) -> Result<Self> {
        let ascending = offsets.windows(2).all(|pair| pair[0] <= pair[1]);
        let bounded = match (offsets.first(), offsets.last()) {
            (Some(first), Some(last)) => *first >= 0 && *last as u64 <= data.len() as u64,
            _ => false,
        };
        if !ascending || !bounded {
            let text = "the offsets of a byte column must ascend within its data";
            return Err(Error::new(ErrorKind::InvalidArgument, text));
        }
        if let Some(valid) = valid
            && valid.len() + 1 != offsets.len()
        {
            let text = format!("{} validities for {} rows", valid.len(), offsets.len() - 1);
            return Err(Error::new(ErrorKind::LengthMismatch, text));
        }
        Ok(Self { data, shape: Shape::Offsets(offsets), valid })
    }

    /// Rows.
    pub fn len(&self) -> usize {
        match self.shape {
            Shape::Fixed { rows, .. } => rows,
            Shape::Offsets(offsets) => offsets.len() - 1,
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A row; `None` if it is null.
    #[inline]
    pub fn get(&self, row: usize) -> Option<&'a [u8]> {
        if self.valid.is_some_and(|valid| !valid[row]) {
            return None;
        }
        Some(self.span(row, row + 1))
    }

    /// The bytes of rows one after the other, whether null or not.
    #[inline]
    pub(super) fn span(&self, from: usize, to: usize) -> &'a [u8] {
        match self.shape {
            Shape::Fixed { width, .. } => &self.data[from * width..to * width],
            Shape::Offsets(offsets) => &self.data[offsets[from] as usize..offsets[to] as usize],
        }
    }

    /// The one length of all rows, if it is known to be one.
    pub(super) fn width(&self) -> Option<usize> {
        match self.shape {
            Shape::Fixed { width, .. } => Some(width),
            Shape::Offsets(_) => None,
        }
    }

    /// Bytes of rows `from..to`.
    #[inline]
    pub(super) fn bytes_between(&self, from: usize, to: usize) -> usize {
        match self.shape {
            Shape::Fixed { width, .. } => (to - from) * width,
            Shape::Offsets(offsets) => (offsets[to] - offsets[from]) as usize,
        }
    }

    pub(super) fn valid(&self) -> Option<&'a [bool]> {
        self.valid
    }
}

/// The timestamps of records, in milliseconds since 1970.
#[derive(Debug, Clone, Copy)]
pub enum Timestamps<'a> {
    /// All have this one.
    Same(i64),
    /// One a row.
    Each(&'a [i64]),
}

/// Records to be written to a topic.
#[derive(Debug, Clone, Copy)]
pub struct Records<'a> {
    rows: usize,
    pub(super) timestamps: Timestamps<'a>,
    pub(super) keys: Option<ByteColumn<'a>>,
    pub(super) values: Option<ByteColumn<'a>>,
    pub(super) headers: Option<ByteColumn<'a>>,
}

impl<'a> Records<'a> {
    /// `rows` records; a column that is `None` is null in all of them. Headers are opaque here.
    ///
    /// `LengthMismatch` if a column has another length.
    pub fn new(
        rows: usize,
        timestamps: Timestamps<'a>,
        keys: Option<ByteColumn<'a>>,
        values: Option<ByteColumn<'a>>,
        headers: Option<ByteColumn<'a>>,
    ) -> Result<Self> {
        let check = |what: &str, length: usize| {
            if length == rows {
                return Ok(());
            }
            let text = format!("{what} has {length} rows, but there are {rows} records");
            Err(Error::new(ErrorKind::LengthMismatch, text))
        };
        for (what, column) in [("keys", &keys), ("values", &values), ("headers", &headers)] {
            check(what, column.as_ref().map_or(rows, ByteColumn::len))?;
        }
        if let Timestamps::Each(timestamps) = timestamps {
            check("timestamps", timestamps.len())?;
        }
        Ok(Self { rows, timestamps, keys, values, headers })
    }

    /// Records.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }
}

/// Byte strings that were read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ByteColumnBuf {
    /// Row `i` is `data[offsets[i]..offsets[i + 1]]`.
    pub offsets: Vec<i64>,
    /// All rows one after the other.
    pub data: Vec<u8>,
    /// One a row: false is null. `None`: no row is null.
    pub valid: Option<Vec<bool>>,
}

impl Default for ByteColumnBuf {
    fn default() -> Self {
        Self { offsets: vec![0], data: Vec::new(), valid: None }
    }
}

impl ByteColumnBuf {
    /// Rows.
    pub fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A row; `None` if it is null.
    pub fn get(&self, row: usize) -> Option<&[u8]> {
        if self.valid.as_ref().is_some_and(|valid| !valid[row]) {
            return None;
        }
        Some(&self.data[self.offsets[row] as usize..self.offsets[row + 1] as usize])
    }

    /// The same, to be written again.
    pub fn as_column(&self) -> ByteColumn<'_> {
        let shape = Shape::Offsets(&self.offsets);
        ByteColumn { data: &self.data, shape, valid: self.valid.as_deref() }
    }

    /// Appends null rows.
    pub(super) fn push_nulls(&mut self, rows: usize) {
        let before = self.len();
        let end = self.data.len() as i64;
        self.offsets.resize(self.offsets.len() + rows, end);
        let valid = self.valid.get_or_insert_with(|| vec![true; before]);
        valid.resize(before + rows, false);
    }

    /// Appends rows that are not null.
    pub(super) fn set_valid(&mut self, rows: usize) {
        if let Some(valid) = &mut self.valid {
            valid.resize(valid.len() + rows, true);
        }
    }
}

/// Records that were read, in the order of their offsets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fetched {
    /// Offset of each record.
    pub offsets: Vec<i64>,
    /// Timestamp of each record, in milliseconds since 1970.
    pub timestamps: Vec<i64>,
    /// Keys.
    pub keys: ByteColumnBuf,
    /// Values.
    pub values: ByteColumnBuf,
    /// Headers, as they were written.
    pub headers: ByteColumnBuf,
    /// Where to read on: after the last record, and after what compaction has removed behind it.
    pub next_offset: u64,
}

impl Fetched {
    /// Records.
    pub fn len(&self) -> usize {
        self.offsets.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }
}
