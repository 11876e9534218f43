//! A batch: the records of one partition that were written together, as one value.
//!
//! ```text
//!  0  u8 = 1 | columns u8 | 0 u16 | records u32 | smallest timestamp i64 | largest timestamp i64
//! 24  columns & 4: i64, from when retention by time counts (since format 2)
//!     columns & 8: i64, when compaction first saw the null values that are in it (since format 2)
//!     columns & 1: records x u32, each offset less the batch's; else they follow one another
//!     columns & 2: records x i64, the timestamps; else all are the smallest
//!     keys, values, headers, each:
//!         u32 = 0                                  all null
//!         u32 = 1 | width u32                      records x width bytes
//!         u32 = 2 | (records + 1) x u32 | bytes    where each begins, and the last ends
//!         u32 = 3                                  like 2, with ceil(records / 8) bytes between: a
//!                                                  bit a record, 0 is null
//!
//! A reference to a staged batch has the same beginning:
//!  0  u8 = 2 | 0 u8 | 0 u16 | records u32 | smallest timestamp i64 | largest timestamp i64
//! 24  producer i64 | epoch i32 | number u32 | bytes of the staged batch u64
//! ```
//! Numbers are little-endian; timestamps are those of the records, the two other times are by the
//! log's clock (see `clock`). A value is at most `MAX_PART_BYTES` long: LMDB looks for free pages
//! that follow one another, and that search is slow above 1 MiB.

use std::ops::RangeInclusive;

use super::clock::Now;
use super::records::{ByteColumn, ByteColumnBuf, Fetched, Records, Timestamps};
use crate::environment::value::MAX_PART_BYTES;
use crate::{Detail, Error, ErrorKind, Result};

const RECORDS: u8 = 1;
const REFERENCE: u8 = 2;
const HAS_OFFSETS: u8 = 1;
const HAS_TIMESTAMPS: u8 = 2;
const HAS_SINCE: u8 = 4;
const HAS_CLEANED: u8 = 8;

const NULL: u32 = 0;
const FIXED: u32 = 1;
const VARIABLE: u32 = 2;
const NULLABLE: u32 = 3;

/// Bytes before the columns, and before the times.
const HEADER_BYTES: usize = 24;

/// The years 1 to 9999, in milliseconds since 1970.
const TIMESTAMPS_MS: RangeInclusive<i64> = -62_135_596_800_000..=253_402_300_799_999;

/// A batch is cut before it would be longer.
const MAX_BATCH_BYTES: usize = MAX_PART_BYTES;

/// What a batch of any one record needs besides its key, value and headers, and more: its form leaves
/// out what a lone record does not have, which makes room for the times.
const ONE_RECORD_BYTES: usize = HEADER_BYTES + 4 + 8 + 3 * (4 + 2 * 4 + 1);

/// No topic takes longer records: key, value and headers together.
pub const MAX_RECORD_BYTES: usize = MAX_BATCH_BYTES - ONE_RECORD_BYTES;

/// What can be said of a batch without its columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Summary {
    pub(super) records: u32,
    pub(super) min_timestamp_ms: i64,
    pub(super) max_timestamp_ms: i64,
}

/// Times of a batch by the log's clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Times {
    /// From when retention by time counts: when the batch was appended, or earlier by as much as its
    /// newest record was old then. `None`: written by format 1.
    pub(super) since_ms: Option<i64>,
    /// When compaction first saw the null values that are in it.
    pub(super) cleaned_ms: Option<i64>,
}

impl Times {
    /// Those of a batch that is appended now. A record from the future is as old as its append.
    fn appended(now: Now, newest_ms: i64) -> Self {
        let age_ms = now.wall_ms.saturating_sub(newest_ms).max(0);
        Self { since_ms: Some(now.log_ms.saturating_sub(age_ms)), cleaned_ms: None }
    }
}

/// Where a batch is that is not in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reference {
    pub(super) producer: i64,
    pub(super) epoch: i32,
    pub(super) number: u32,
    pub(super) bytes: u64,
}

/// What a value of `batches` is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Entry<'a> {
    Records(Batch<'a>),
    Reference(Summary, Reference),
}

impl<'a> Entry<'a> {
    pub(super) fn parse(payload: &'a [u8]) -> Check<Self> {
        let mut reader = Reader { rest: payload };
        let [kind, columns, zero_0, zero_1] = reader.take()?;
        let summary = Summary {
            records: reader.u32()?,
            min_timestamp_ms: reader.i64()?,
            max_timestamp_ms: reader.i64()?,
        };
        let is_batch = kind == RECORDS;
        let mut time =
            |flag: u8| (is_batch && columns & flag != 0).then(|| reader.i64()).transpose();
        let times = Times { since_ms: time(HAS_SINCE)?, cleaned_ms: time(HAS_CLEANED)? };
        if (zero_0, zero_1) != (0, 0) || summary.records == 0 {
            return Err("its header cannot be".to_owned());
        }
        match (kind, columns) {
            (RECORDS, 0..=15) => {
                Ok(Self::Records(Batch { summary, times, columns, body: reader.rest, payload }))
            }
            (REFERENCE, 0) => {
                let reference = Reference {
                    producer: reader.i64()?,
                    epoch: reader.u32()? as i32,
                    number: reader.u32()?,
                    bytes: reader.i64()? as u64,
                };
                Ok(Self::Reference(summary, reference))
            }
            _ => Err(format!("its kind is {kind} with columns {columns}")),
        }
    }

    pub(super) fn summary(&self) -> Summary {
        match self {
            Self::Records(batch) => batch.summary,
            Self::Reference(summary, _) => *summary,
        }
    }

    /// Size of its records, wherever they lie, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Self::Records(batch) => batch.payload().len() as u64,
            Self::Reference(_, at) => at.bytes,
        }
    }
}

/// The value that refers to a staged batch.
pub(super) fn encode_reference(summary: &Summary, reference: &Reference) -> Vec<u8> {
    let mut out = header(REFERENCE, 0, summary);
    out.extend(reference.producer.to_le_bytes());
    out.extend(reference.epoch.to_le_bytes());
    out.extend(reference.number.to_le_bytes());
    out.extend(reference.bytes.to_le_bytes());
    out
}

fn header(kind: u8, columns: u8, summary: &Summary) -> Vec<u8> {
    let mut out = vec![kind, columns, 0, 0];
    out.extend(summary.records.to_le_bytes());
    out.extend(summary.min_timestamp_ms.to_le_bytes());
    out.extend(summary.max_timestamp_ms.to_le_bytes());
    out
}

/// What is wrong with bytes, without saying where they lie.
pub(super) type Check<T> = std::result::Result<T, String>;

// ---- writing -----------------------------------------------------------------------------

/// Which rows of some records, in order.
#[derive(Debug, Clone, Copy)]
pub(super) enum Rows<'a> {
    Range(usize, usize),
    Listed(&'a [u32]),
}

impl Rows<'_> {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Range(from, to) => to - from,
            Self::Listed(rows) => rows.len(),
        }
    }

    fn get(&self, at: usize) -> usize {
        match self {
            Self::Range(from, _) => from + at,
            Self::Listed(rows) => rows[at] as usize,
        }
    }

    fn part(&self, from: usize, to: usize) -> Self {
        match self {
            Self::Range(start, _) => Self::Range(start + from, start + to),
            Self::Listed(rows) => Self::Listed(&rows[from..to]),
        }
    }
}

/// Encodes rows as batches, each as long as a value may be.
///
/// `RecordTooLarge` if one record is larger than `max_record_bytes`.
pub(super) fn encode(
    records: &Records<'_>,
    rows: Rows<'_>,
    max_record_bytes: usize,
    now: Now,
) -> Result<Vec<Vec<u8>>> {
    check_timestamps(records, rows)?;
    let max_record_bytes = max_record_bytes.min(MAX_RECORD_BYTES);
    let mut batches = Vec::new();
    let mut from = 0;
    while from < rows.len() {
        let to = cut(records, rows, from, max_record_bytes)?;
        batches.push(encode_one(records, rows.part(from, to), None, |newest_ms| {
            Times::appended(now, newest_ms)
        }));
        from = to;
    }
    Ok(batches)
}

/// Refuses timestamps of other units than milliseconds: later on they would be times of other
/// records, or wrap.
fn check_timestamps(records: &Records<'_>, rows: Rows<'_>) -> Result<()> {
    let wrong = |timestamp: &i64| !TIMESTAMPS_MS.contains(timestamp);
    let found = match records.timestamps {
        Timestamps::Same(timestamp) => wrong(&timestamp).then_some((0, timestamp)),
        Timestamps::Each(timestamps) => {
            let mut each = (0..rows.len()).map(|at| rows.get(at)).map(|row| (row, timestamps[row]));
            each.find(|(_, timestamp)| wrong(timestamp))
        }
    };
    let Some((row, timestamp)) = found else { return Ok(()) };
    let text = format!(
        "record {row} has the timestamp {timestamp}, which lies outside of the years 1 to 9999: \
         timestamps are milliseconds since 1970. Nothing of this call was written"
    );
    Err(Error::new(ErrorKind::InvalidArgument, text))
}

fn columns<'a>(records: &Records<'a>) -> [Option<ByteColumn<'a>>; 3] {
    [records.keys, records.values, records.headers]
}

/// The end of the batch that begins at `from`.
fn cut(
    records: &Records<'_>,
    rows: Rows<'_>,
    from: usize,
    max_record_bytes: usize,
) -> Result<usize> {
    // Room for the longest form of everything; forms are chosen only when the rows are known.
    const FIXED_BYTES: usize = HEADER_BYTES + 2 * 8 + 3 * (4 + 4 + 1);
    const ROW_BYTES: usize = 4 + 8 + 3 * 4 + 1;
    let columns = columns(records);
    let mut bytes = FIXED_BYTES;
    for at in from..rows.len() {
        let row = rows.get(at);
        let length = |column: &ByteColumn<'_>| column.bytes_between(row, row + 1);
        let record: usize = columns.iter().flatten().map(length).sum();
        if record > max_record_bytes {
            return Err(Error::new(
                ErrorKind::RecordTooLarge,
                format!(
                    "record {row} has {record} bytes of key, value and headers, but this topic \
                     takes {max_record_bytes}; split it, or keep its value elsewhere. Nothing of \
                     this call was written"
                ),
            )
            .with(Detail::Size { size: record as u64, limit: max_record_bytes as u64 }));
        }
        bytes += record + ROW_BYTES;
        if bytes > MAX_BATCH_BYTES && at > from {
            return Ok(at);
        }
    }
    Ok(rows.len())
}

/// Encodes rows as one batch; with `deltas`, each offset less the batch's (after compaction).
fn encode_one(
    records: &Records<'_>,
    rows: Rows<'_>,
    deltas: Option<&[u32]>,
    times: impl FnOnce(i64) -> Times,
) -> Vec<u8> {
    let count = rows.len();
    let mut flags = if deltas.is_some() { HAS_OFFSETS } else { 0 };
    let (min_timestamp_ms, max_timestamp_ms) = match records.timestamps {
        Timestamps::Same(timestamp) => (timestamp, timestamp),
        Timestamps::Each(timestamps) => {
            let each = (0..count).map(|at| timestamps[rows.get(at)]);
            each.fold((i64::MAX, i64::MIN), |(min, max), one| (min.min(one), max.max(one)))
        }
    };
    if min_timestamp_ms != max_timestamp_ms {
        flags |= HAS_TIMESTAMPS;
    }
    let times = times(max_timestamp_ms);
    let times = [(HAS_SINCE, times.since_ms), (HAS_CLEANED, times.cleaned_ms)];
    flags |= times.iter().filter(|(_, time)| time.is_some()).map(|(flag, _)| flag).sum::<u8>();
    let summary = Summary { records: count as u32, min_timestamp_ms, max_timestamp_ms };
    let columns = columns(records);
    let mut out = header(RECORDS, flags, &summary);
    out.extend(times.iter().filter_map(|(_, time)| *time).flat_map(i64::to_le_bytes));
    if let Rows::Range(from, to) = rows {
        let bytes = columns.iter().flatten().map(|column| column.bytes_between(from, to));
        out.reserve(bytes.sum::<usize>() + count * 12 + 64);
    }
    if let Some(deltas) = deltas {
        out.extend_from_slice(bytemuck::cast_slice(deltas));
    }
    if let (true, Timestamps::Each(timestamps)) = (flags & HAS_TIMESTAMPS != 0, records.timestamps)
    {
        match rows {
            Rows::Range(from, to) => {
                out.extend_from_slice(bytemuck::cast_slice(&timestamps[from..to]));
            }
            Rows::Listed(rows) => rows
                .iter()
                .for_each(|row| out.extend_from_slice(&timestamps[*row as usize].to_le_bytes())),
        }
    }
    for column in columns {
        encode_column(column, rows, &mut out);
    }
    out
}

fn encode_column(column: Option<ByteColumn<'_>>, rows: Rows<'_>, out: &mut Vec<u8>) {
    let count = rows.len();
    let is_valid = |at: usize| {
        column.is_some_and(|column| column.valid().is_none_or(|valid| valid[rows.get(at)]))
    };
    let valid = (0..count).filter(|at| is_valid(*at)).count();
    let Some(column) = column.filter(|_| valid > 0) else {
        out.extend(NULL.to_le_bytes());
        return;
    };
    let length = |at: usize| {
        let row = rows.get(at);
        column.bytes_between(row, row + 1)
    };
    let width = column.width().or_else(|| {
        let first = length(0);
        (valid == count && (1..count).all(|at| length(at) == first)).then_some(first)
    });
    if let Some(width) = width.filter(|_| valid == count) {
        out.extend(FIXED.to_le_bytes());
        out.extend((width as u32).to_le_bytes());
        append_data(&column, rows, out);
        return;
    }
    let kind = if valid == count { VARIABLE } else { NULLABLE };
    out.extend(kind.to_le_bytes());
    let mut end = 0_u32;
    out.extend(end.to_le_bytes());
    for at in 0..count {
        if is_valid(at) {
            end += length(at) as u32;
        }
        out.extend(end.to_le_bytes());
    }
    if kind == VARIABLE {
        append_data(&column, rows, out);
        return;
    }
    let bits = out.len();
    out.resize(bits + count.div_ceil(8), 0);
    for at in (0..count).filter(|at| is_valid(*at)) {
        out[bits + at / 8] |= 1 << (at % 8);
    }
    for at in 0..count {
        out.extend_from_slice(column.get(rows.get(at)).unwrap_or_default());
    }
}

fn append_data(column: &ByteColumn<'_>, rows: Rows<'_>, out: &mut Vec<u8>) {
    match rows {
        Rows::Range(from, to) => out.extend_from_slice(column.span(from, to)),
        Rows::Listed(rows) => rows.iter().for_each(|row| {
            out.extend_from_slice(column.span(*row as usize, *row as usize + 1));
        }),
    }
}

// ---- reading -----------------------------------------------------------------------------

/// A batch as it is stored.
#[derive(Debug, Clone, Copy)]
pub(super) struct Batch<'a> {
    summary: Summary,
    times: Times,
    columns: u8,
    body: &'a [u8],
    payload: &'a [u8],
}

/// One column of bytes as it is stored.
enum Column<'a> {
    Null,
    Fixed { width: usize, data: &'a [u8] },
    Variable { ends: &'a [u8], bits: Option<&'a [u8]>, data: &'a [u8] },
}

/// A batch whose columns were checked.
pub(super) struct Columns<'a> {
    records: usize,
    deltas: Option<&'a [u8]>,
    timestamps: Option<&'a [u8]>,
    min_timestamp_ms: i64,
    keys: Column<'a>,
    values: Column<'a>,
    headers: Column<'a>,
}

impl<'a> Batch<'a> {
    pub(super) fn summary(&self) -> Summary {
        self.summary
    }

    pub(super) fn times(&self) -> Times {
        self.times
    }

    pub(super) fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// Checks the columns.
    pub(super) fn columns(&self) -> Check<Columns<'a>> {
        let records = self.summary.records as usize;
        let mut reader = Reader { rest: self.body };
        let mut optional = |flag, width| {
            let present = self.columns & flag != 0;
            present.then(|| reader.bytes(records.saturating_mul(width))).transpose()
        };
        let deltas = optional(HAS_OFFSETS, 4)?;
        let timestamps = optional(HAS_TIMESTAMPS, 8)?;
        let columns = Columns {
            records,
            deltas,
            timestamps,
            min_timestamp_ms: self.summary.min_timestamp_ms,
            keys: reader.column(records)?,
            values: reader.column(records)?,
            headers: reader.column(records)?,
        };
        if !reader.rest.is_empty() {
            return Err(format!("{} bytes follow its end", reader.rest.len()));
        }
        Ok(columns)
    }
}

impl Columns<'_> {
    pub(super) fn len(&self) -> usize {
        self.records
    }

    /// Offset of a record less the batch's.
    pub(super) fn delta(&self, row: usize) -> u64 {
        match self.deltas {
            None => row as u64,
            Some(deltas) => u64::from(u32_at(deltas, row)),
        }
    }

    /// The first row whose offset is at least `delta` past the batch's.
    pub(super) fn row_at(&self, delta: u64) -> usize {
        if self.deltas.is_none() {
            return usize::try_from(delta).unwrap_or(usize::MAX).min(self.records);
        }
        let (mut low, mut high) = (0, self.records);
        while low < high {
            let middle = (low + high) / 2;
            if self.delta(middle) < delta { low = middle + 1 } else { high = middle }
        }
        low
    }

    pub(super) fn timestamp(&self, row: usize) -> i64 {
        match self.timestamps {
            None => self.min_timestamp_ms,
            Some(bytes) => i64_at(bytes, row),
        }
    }

    /// Bytes of keys, values and headers of rows `from..to`.
    pub(super) fn bytes_between(&self, from: usize, to: usize) -> usize {
        let columns = [&self.keys, &self.values, &self.headers];
        columns.iter().map(|column| column.span(from, to).len()).sum()
    }

    /// Appends rows `from..to`, of the batch that begins at `base`.
    pub(super) fn append_to(&self, from: usize, to: usize, base: u64, out: &mut Fetched) {
        match self.deltas {
            None => out.offsets.extend(base as i64 + from as i64..base as i64 + to as i64),
            Some(_) => {
                out.offsets.extend((from..to).map(|row| (base + self.delta(row)) as i64));
            }
        }
        match self.timestamps {
            None => out.timestamps.resize(out.offsets.len(), self.min_timestamp_ms),
            Some(bytes) => out.timestamps.extend((from..to).map(|row| i64_at(bytes, row))),
        }
        self.keys.append_to(from, to, &mut out.keys);
        self.values.append_to(from, to, &mut out.values);
        self.headers.append_to(from, to, &mut out.headers);
    }
}

impl Column<'_> {
    fn span(&self, from: usize, to: usize) -> &[u8] {
        match self {
            Self::Null => &[],
            Self::Fixed { width, data } => &data[from * width..to * width],
            Self::Variable { ends, data, .. } => {
                &data[u32_at(ends, from) as usize..u32_at(ends, to) as usize]
            }
        }
    }

    fn append_to(&self, from: usize, to: usize, out: &mut ByteColumnBuf) {
        let start = out.data.len() as i64;
        match self {
            Self::Null => return out.push_nulls(to - from),
            Self::Fixed { width, .. } => {
                let ends = (1..=to - from).map(|row| start + (row * width) as i64);
                out.offsets.extend(ends);
            }
            Self::Variable { ends, .. } => {
                let shift = start - i64::from(u32_at(ends, from));
                let ends = ends[(from + 1) * 4..(to + 1) * 4].as_chunks().0.iter();
                out.offsets.extend(ends.map(|end| i64::from(u32::from_le_bytes(*end)) + shift));
            }
        }
        out.data.extend_from_slice(self.span(from, to));
        match self {
            Self::Variable { bits: Some(bits), .. } => {
                let before = out.offsets.len() - 1 - (to - from);
                let valid = out.valid.get_or_insert_with(|| vec![true; before]);
                valid.extend((from..to).map(|row| bits[row / 8] >> (row % 8) & 1 == 1));
            }
            _ => out.set_valid(to - from),
        }
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.as_chunks().0.get(at).map_or(0, |word| u32::from_le_bytes(*word))
}

fn i64_at(bytes: &[u8], at: usize) -> i64 {
    bytes.as_chunks().0.get(at).map_or(0, |word| i64::from_le_bytes(*word))
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take<const N: usize>(&mut self) -> Check<[u8; N]> {
        let (bytes, rest) =
            self.rest.split_first_chunk().ok_or_else(|| "it is truncated".to_owned())?;
        self.rest = rest;
        Ok(*bytes)
    }

    fn u32(&mut self) -> Check<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn i64(&mut self) -> Check<i64> {
        self.take().map(i64::from_le_bytes)
    }

    fn bytes(&mut self, count: usize) -> Check<&'a [u8]> {
        let (bytes, rest) =
            self.rest.split_at_checked(count).ok_or_else(|| "it is truncated".to_owned())?;
        self.rest = rest;
        Ok(bytes)
    }

    fn column(&mut self, records: usize) -> Check<Column<'a>> {
        match self.u32()? {
            NULL => Ok(Column::Null),
            FIXED => {
                let width = self.u32()? as usize;
                let data = self.bytes(records.saturating_mul(width))?;
                Ok(Column::Fixed { width, data })
            }
            kind @ (VARIABLE | NULLABLE) => {
                let ends = self.bytes((records + 1) * 4)?;
                let words = ends.as_chunks::<4>().0;
                let word = |at: usize| words.get(at).map_or(0, |word| u32::from_le_bytes(*word));
                if word(0) != 0 || (0..records).any(|at| word(at) > word(at + 1)) {
                    return Err("its byte strings overlap".to_owned());
                }
                let bits = (kind == NULLABLE).then(|| self.bytes(records.div_ceil(8)));
                let bits = bits.transpose()?;
                let data = self.bytes(word(records) as usize)?;
                Ok(Column::Variable { ends, bits, data })
            }
            kind => Err(format!("a column is of kind {kind}")),
        }
    }
}

/// Encodes what compaction keeps of some records, as one batch that begins at `base`.
pub(super) fn encode_kept(
    records: &Fetched,
    rows: &[u32],
    base: u64,
    times: Times,
) -> Result<Vec<u8>> {
    let columns = Records::new(
        records.len(),
        Timestamps::Each(&records.timestamps),
        Some(records.keys.as_column()),
        Some(records.values.as_column()),
        Some(records.headers.as_column()),
    )?;
    let deltas: Vec<u32> =
        rows.iter().map(|row| (records.offsets[*row as usize] as u64 - base) as u32).collect();
    Ok(encode_one(&columns, Rows::Listed(rows), Some(&deltas), |_| times))
}
