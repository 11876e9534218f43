//! The columnar encoding of rows.
//!
//! ```text
//! magic "OFCK" │ version u16 │ kind u8 │ flags u8 │ schema fingerprint u64
//! key groups u16 │ first group u16 │ last group u16 │ 0 u16 │ rows u32
//! rows of each group from first to last   u32 each
//! keys           integers: u64 each, element after element │ else: lengths u32 each, then bytes
//! set bits       u32 a row, bit c for column c          only with flag 1, else all are set
//! tombstones     1 bit a row                            only with flag 2
//! columns        i64 u64 f64: 8 bytes │ f32 u32: 4 │ bool: 1 │ bytes: lengths u32, then bytes
//! ```
//!
//! Little-endian, without gaps; rows are ordered by key group and nearly by hash. There is no
//! checksum in here: the store binds one to each value and its key.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use super::capture::cell_bytes;
use crate::hash::{hash_bytes, hash_u64, hash_words};
use crate::rows::layout::{INLINE_BYTES, LIVE, Layout, NO_HANDLE, key_view, set_bit};
use crate::rows::{ColumnType, KeyType, check_tuple};
use crate::{Error, ErrorKind, Result};

const MAGIC: [u8; 4] = *b"OFCK";
const VERSION: u16 = 1;
const HEADER_BYTES: usize = 28;
const HAS_SET_BITS: u8 = 1;
const HAS_TOMBSTONES: u8 = 2;

/// Rows decoded at once.
const BLOCK_ROWS: usize = 1024;

/// Whether a chunk replaces its key groups or changes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChunkKind {
    /// All live rows of its key groups (or a part of them, beside its sibling chunks).
    Base,
    /// Changed rows and tombstones.
    Delta,
}

/// An encoded chunk, not yet bound to a key: the store adds the checksum.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub struct EncodedChunk {
    pub kind: ChunkKind,
    /// First and last key group that it may hold rows of.
    pub first_group: u16,
    pub last_group: u16,
    pub rows: u64,
    pub bytes: Vec<u8>,
}

/// Rows in the words of a capture (see `Capture`), some of which become a chunk.
#[derive(Clone, Copy)]
pub(super) struct RowsRef<'a> {
    pub(super) layout: &'a Layout,
    pub(super) words: &'a [u64],
    pub(super) bytes: &'a [u8],
}

impl<'a> RowsRef<'a> {
    #[inline]
    pub(super) fn row(&self, index: usize) -> &'a [u64] {
        &self.words[index * self.layout.width..(index + 1) * self.layout.width]
    }

    /// The bytes of a byte key.
    #[inline]
    pub(super) fn with_key<T>(&self, row: &[u64], with: impl FnOnce(&[u8]) -> T) -> T {
        let len = (row[1] & 0xFFFF_FFFF) as usize;
        if len > INLINE_BYTES {
            let start = row[2] as usize;
            return with(self.bytes.get(start..start + len).unwrap_or_default());
        }
        let mut inline = [0; 12];
        inline[..4].copy_from_slice(&((row[1] >> 32) as u32).to_le_bytes());
        inline[4..].copy_from_slice(&row[2].to_le_bytes());
        with(&inline[..len])
    }

    #[inline]
    pub(super) fn hash(&self, index: usize) -> u64 {
        let row = self.row(index);
        match self.layout.integer_key {
            Some(1) => hash_u64(row[1]),
            Some(width) => hash_words(&row[1..=width]),
            None => self.with_key(row, hash_bytes),
        }
    }

    /// Bytes that a row takes in a chunk.
    pub(super) fn encoded_len(&self, index: usize) -> usize {
        let row = self.row(index);
        let mut len = 5 + self
            .layout
            .integer_key
            .map_or_else(|| 4 + (row[1] & 0xFFFF_FFFF) as usize, |width| width * 8);
        for (column, (_, kind)) in self.layout.schema.columns.iter().enumerate() {
            len += match width_of(*kind) {
                Some(width) => width,
                None => 4 + cell_bytes(self.bytes, row[self.layout.cells + column]).len(),
            };
        }
        len
    }
}

fn width_of(column: ColumnType) -> Option<usize> {
    match column {
        ColumnType::I64 | ColumnType::U64 | ColumnType::F64 => Some(8),
        ColumnType::F32 | ColumnType::U32 => Some(4),
        ColumnType::Bool => Some(1),
        ColumnType::Bytes => None,
    }
}

/// Encodes the rows at these indices, ordered by group, in the memory of `out`; `counts` has one
/// entry a group of `groups`.
pub(super) fn encode(
    rows: RowsRef<'_>,
    indices: &[u32],
    kind: ChunkKind,
    groups: RangeInclusive<u16>,
    counts: &[u32],
    mut out: Vec<u8>,
) -> EncodedChunk {
    let layout = rows.layout;
    let header = |index: u32| rows.words[index as usize * layout.width];
    let live = |index: u32| header(index) & LIVE != 0;
    let all_set = indices
        .iter()
        .all(|&index| !live(index) || header(index) & layout.all_set == layout.all_set);
    let tombstones = indices.iter().any(|&index| !live(index));
    out.clear();
    out.reserve(HEADER_BYTES + counts.len() * 4 + indices.len() * layout.width * 8);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.push(match kind {
        ChunkKind::Base => 0,
        ChunkKind::Delta => 1,
    });
    out.push(if all_set { 0 } else { HAS_SET_BITS } | if tombstones { HAS_TOMBSTONES } else { 0 });
    out.extend_from_slice(&layout.fingerprint.to_le_bytes());
    for word in [layout.key_groups, *groups.start(), *groups.end(), 0] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    out.extend_from_slice(&(indices.len() as u32).to_le_bytes());
    for count in counts {
        out.extend_from_slice(&count.to_le_bytes());
    }
    match layout.integer_key {
        Some(width) => {
            for word in 1..=width {
                put(&mut out, indices, |index| {
                    rows.words[index as usize * layout.width + word].to_le_bytes()
                });
            }
        }
        None => {
            for &index in indices {
                out.extend_from_slice(&(rows.row(index as usize)[1] as u32).to_le_bytes());
            }
            for &index in indices {
                rows.with_key(rows.row(index as usize), |key| out.extend_from_slice(key));
            }
        }
    }
    if !all_set {
        for &index in indices {
            let bits = if live(index) { header(index) >> 34 } else { 0 } as u32;
            out.extend_from_slice(&bits.to_le_bytes());
        }
    }
    if tombstones {
        for eight in indices.chunks(8) {
            let bits = eight.iter().enumerate().map(|(bit, &index)| u8::from(!live(index)) << bit);
            out.push(bits.sum());
        }
    }
    for (column, (_, kind)) in layout.schema.columns.iter().enumerate() {
        let cell = layout.cells + column;
        let read = |index: u32| {
            let at = index as usize * layout.width;
            let set = rows.words[at] & LIVE != 0 && rows.words[at] & set_bit(column) != 0;
            if set { rows.words[at + cell] } else { 0 }
        };
        match width_of(*kind) {
            Some(8) => put(&mut out, indices, |index| read(index).to_le_bytes()),
            Some(4) => put(&mut out, indices, |index| (read(index) as u32).to_le_bytes()),
            Some(_) => put(&mut out, indices, |index| [read(index) as u8]),
            None => {
                let value = |&index: &u32| {
                    let at = index as usize * layout.width;
                    let live = rows.words[at] & LIVE != 0;
                    cell_bytes(rows.bytes, if live { rows.words[at + cell] } else { NO_HANDLE })
                };
                for index in indices {
                    out.extend_from_slice(&(value(index).len() as u32).to_le_bytes());
                }
                for index in indices {
                    out.extend_from_slice(value(index));
                }
            }
        }
    }
    EncodedChunk {
        kind,
        first_group: *groups.start(),
        last_group: *groups.end(),
        rows: indices.len() as u64,
        bytes: out,
    }
}

/// Appends `N` bytes for each row; room is made first, so that the loop has no branch.
#[inline]
fn put<const N: usize>(out: &mut Vec<u8>, indices: &[u32], bytes: impl Fn(u32) -> [u8; N]) {
    let start = out.len();
    out.resize(start + indices.len() * N, 0);
    for (to, index) in out[start..].as_chunks_mut::<N>().0.iter_mut().zip(indices) {
        *to = bytes(*index);
    }
}

/// Rows read from a chunk.
#[derive(Default)]
pub(crate) struct RowBlock {
    /// Row after row, as in a `Capture`.
    pub(crate) words: Vec<u64>,
    /// One a row.
    pub(crate) hashes: Vec<u64>,
    /// Long keys and byte cells.
    pub(crate) bytes: Vec<u8>,
}

/// One value for each row: fixed width, or by length.
enum Section<'a> {
    Fixed { width: usize, data: &'a [u8] },
    Bytes { lengths: &'a [u8], data: &'a [u8], next: usize },
}

/// Reads the rows of a chunk, whatever its bytes are.
pub(crate) struct ChunkReader<'a> {
    layout: &'a Layout,
    kind: ChunkKind,
    groups: RangeInclusive<u16>,
    counts: &'a [u8],
    rows: usize,
    next: usize,
    /// The group of the next row, counted from the first, and rows of it that are left.
    group: usize,
    group_rows: usize,
    keys: Vec<Section<'a>>,
    set_bits: Option<&'a [u8]>,
    tombstones: Option<&'a [u8]>,
    columns: Vec<Section<'a>>,
}

impl<'a> ChunkReader<'a> {
    /// Checks everything but the rows themselves.
    pub(crate) fn new(layout: &'a Layout, bytes: &'a [u8]) -> Result<Self> {
        let mut rest = bytes;
        let header = take(&mut rest, HEADER_BYTES)?;
        let u16_at = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
        if header[..4] != MAGIC || u16_at(4) != VERSION {
            return Err(corrupt("it does not begin as a chunk of version 1 does"));
        }
        let kind = match header[6] {
            0 => ChunkKind::Base,
            1 => ChunkKind::Delta,
            other => return Err(corrupt(&format!("its kind is {other}"))),
        };
        let flags = header[7];
        if flags & !(HAS_SET_BITS | HAS_TOMBSTONES) != 0 {
            return Err(corrupt(&format!("its flags are {flags:#x}")));
        }
        if header[8..16] != layout.fingerprint.to_le_bytes() {
            return Err(corrupt("its rows are of another schema"));
        }
        let (first, last) = (u16_at(18), u16_at(20));
        if u16_at(16) != layout.key_groups
            || first > last
            || last >= layout.key_groups
            || u16_at(22) != 0
        {
            return Err(corrupt(&format!(
                "it speaks of the key groups {first} to {last} of {}; the table has {}",
                u16_at(16),
                layout.key_groups
            )));
        }
        let rows = u32_at(header, 24) as usize;
        let counts = take(&mut rest, (usize::from(last - first) + 1) * 4)?;
        let sum: u64 = counts.chunks_exact(4).map(|count| u64::from(u32_at(count, 0))).sum();
        if sum != rows as u64 {
            return Err(corrupt(&format!("its groups have {sum} rows, the chunk {rows}")));
        }
        let keys = match layout.integer_key {
            Some(width) => (0..width)
                .map(|_| Section::fixed(&mut rest, 8, rows))
                .collect::<Result<Vec<_>>>()?,
            None => vec![Section::bytes(&mut rest, rows)?],
        };
        let set_bits = match flags & HAS_SET_BITS {
            0 => None,
            _ => Some(take_rows(&mut rest, rows, 4)?),
        };
        let tombstones = match flags & HAS_TOMBSTONES {
            0 => None,
            _ => Some(take(&mut rest, rows.div_ceil(8))?),
        };
        if kind == ChunkKind::Base && tombstones.is_some() {
            return Err(corrupt("it is a base and has tombstones"));
        }
        let columns = layout
            .schema
            .columns
            .iter()
            .map(|(_, column)| match width_of(*column) {
                Some(width) => Section::fixed(&mut rest, width, rows),
                None => Section::bytes(&mut rest, rows),
            })
            .collect::<Result<Vec<_>>>()?;
        if !rest.is_empty() {
            return Err(corrupt(&format!("{} bytes follow its end", rest.len())));
        }
        let group_rows = u32_at(counts, 0) as usize;
        Ok(Self {
            layout,
            kind,
            groups: first..=last,
            counts,
            rows,
            next: 0,
            group: 0,
            group_rows,
            keys,
            set_bits,
            tombstones,
            columns,
        })
    }

    pub(crate) fn kind(&self) -> ChunkKind {
        self.kind
    }

    /// Fills `block` with the next rows; false when there are none left.
    pub(crate) fn next_block(&mut self, block: &mut RowBlock) -> Result<bool> {
        let count = (self.rows - self.next).min(BLOCK_ROWS);
        let width = self.layout.width;
        block.words.clear();
        block.words.resize(count * width, 0);
        block.hashes.clear();
        block.bytes.clear();
        if count == 0 {
            return Ok(false);
        }
        let first = self.next;
        let words = &mut block.words[..];
        for (word, section) in self.keys.iter_mut().enumerate() {
            match section {
                Section::Fixed { data, .. } => {
                    fill(words, width, 1 + word, &data[first * 8..(first + count) * 8], u64_of);
                }
                Section::Bytes { lengths, data, next } => {
                    for (index, row) in words.chunks_exact_mut(width).enumerate() {
                        let key = value(lengths, data, next, first + index);
                        check_key(&self.layout.schema.key, key)?;
                        let hash = hash_bytes(key);
                        block.hashes.push(hash);
                        row[1..3].copy_from_slice(&key_view(key, hash));
                        if key.len() > INLINE_BYTES {
                            row[2] = block.bytes.len() as u64;
                            block.bytes.extend_from_slice(key);
                        }
                    }
                }
            }
        }
        match self.layout.integer_key {
            Some(1) => block.hashes.extend(words.chunks_exact(width).map(|row| hash_u64(row[1]))),
            Some(key) => {
                block.hashes.extend(words.chunks_exact(width).map(|row| hash_words(&row[1..=key])));
            }
            None => {}
        }
        self.check_groups(&block.hashes)?;
        let all = LIVE | self.layout.all_set;
        for (index, row) in words.chunks_exact_mut(width).enumerate() {
            let index = first + index;
            let dead = self.tombstones.is_some_and(|bits| bits[index / 8] >> (index % 8) & 1 == 1);
            row[0] = match self.set_bits {
                _ if dead => 0,
                None => all,
                Some(bits) => {
                    let set = u64::from(u32_at(bits, index * 4)) << 34;
                    if set & !self.layout.all_set != 0 {
                        return Err(corrupt("a row has set bits of columns that do not exist"));
                    }
                    LIVE | set
                }
            };
        }
        for (column, section) in self.columns.iter_mut().enumerate() {
            let cell = self.layout.cells + column;
            match section {
                Section::Fixed { width: 8, data } => {
                    fill(words, width, cell, &data[first * 8..(first + count) * 8], u64_of);
                }
                Section::Fixed { width: 4, data } => {
                    let data = &data[first * 4..(first + count) * 4];
                    fill(words, width, cell, data, |bytes: [u8; 4]| {
                        u64::from(u32::from_le_bytes(bytes))
                    });
                }
                Section::Fixed { data, .. } => {
                    let data = &data[first..first + count];
                    if data.iter().any(|byte| *byte > 1) {
                        return Err(corrupt("a bool is neither 0 nor 1"));
                    }
                    fill(words, width, cell, data, |[byte]: [u8; 1]| u64::from(byte));
                }
                Section::Bytes { lengths, data, next } => {
                    for (index, row) in words.chunks_exact_mut(width).enumerate() {
                        let value = value(lengths, data, next, first + index);
                        row[cell] = NO_HANDLE;
                        if !value.is_empty() {
                            row[cell] = block.bytes.len() as u64;
                            block.bytes.extend_from_slice(&(value.len() as u32).to_le_bytes());
                            block.bytes.extend_from_slice(value);
                        }
                    }
                }
            }
        }
        self.next += count;
        Ok(true)
    }

    /// Every row's hash must belong to the group that the directory names.
    fn check_groups(&mut self, hashes: &[u64]) -> Result<()> {
        for hash in hashes {
            while self.group_rows == 0 {
                self.group += 1;
                self.group_rows = u32_at(self.counts, self.group * 4) as usize;
            }
            self.group_rows -= 1;
            let group = usize::from(self.layout.group(*hash));
            if group != usize::from(*self.groups.start()) + self.group {
                return Err(corrupt(&format!(
                    "a row of key group {group} lies with another group"
                )));
            }
        }
        Ok(())
    }
}

impl<'a> Section<'a> {
    fn fixed(rest: &mut &'a [u8], width: usize, rows: usize) -> Result<Self> {
        Ok(Self::Fixed { width, data: take_rows(rest, rows, width)? })
    }

    fn bytes(rest: &mut &'a [u8], rows: usize) -> Result<Self> {
        let lengths = take_rows(rest, rows, 4)?;
        let total: u64 = lengths.chunks_exact(4).map(|len| u64::from(u32_at(len, 0))).sum();
        let total = usize::try_from(total).map_err(|_| corrupt("a byte section is too long"))?;
        Ok(Self::Bytes { lengths, data: take(rest, total)?, next: 0 })
    }
}

/// The next value of a byte section; its lengths add up to the length of its data.
fn value<'a>(lengths: &[u8], data: &'a [u8], next: &mut usize, index: usize) -> &'a [u8] {
    let end = *next + u32_at(lengths, index * 4) as usize;
    let value = data.get(*next..end).unwrap_or_default();
    *next = end;
    value
}

#[inline]
fn fill<const N: usize>(
    words: &mut [u64],
    width: usize,
    word: usize,
    data: &[u8],
    read: impl Fn([u8; N]) -> u64,
) {
    for (row, bytes) in words.chunks_exact_mut(width).zip(data.as_chunks::<N>().0) {
        row[word] = read(*bytes);
    }
}

fn u64_of(bytes: [u8; 8]) -> u64 {
    u64::from_le_bytes(bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let word = bytes.get(at..at + 4).and_then(|word| word.try_into().ok());
    word.map_or(0, u32::from_le_bytes)
}

fn check_key(key_type: &KeyType, key: &[u8]) -> Result<()> {
    let valid = match key_type {
        KeyType::Str => std::str::from_utf8(key).is_ok(),
        KeyType::Tuple(elements) => check_tuple(elements, key).is_ok(),
        _ => true,
    };
    if valid { Ok(()) } else { Err(corrupt("a key is not of the table's key type")) }
}

fn take_rows<'a>(rest: &mut &'a [u8], rows: usize, width: usize) -> Result<&'a [u8]> {
    take(rest, rows.checked_mul(width).ok_or_else(|| corrupt("it has too many rows"))?)
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> Result<&'a [u8]> {
    let (head, tail) = rest.split_at_checked(len).ok_or_else(|| {
        corrupt(&format!("{len} bytes are announced and {} are there", rest.len()))
    })?;
    *rest = tail;
    Ok(head)
}

pub(super) fn corrupt(why: &str) -> Error {
    Error::new(
        ErrorKind::StoreCorrupt,
        format!("a state chunk is damaged: {why}; resume from another checkpoint"),
    )
}
