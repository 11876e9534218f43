//! Records of CSV in a block of whole lines: where the fields lie of the columns that are asked for.
//!
//! Only what has one reading is taken, the one of Python's `csv` in its strict mode. Anything else (another number of
//! fields, a quote behind a quoted field, a carriage return within a line, a record that goes on behind the block)
//! refuses the whole block, which the caller then reads by Python's module.

use memchr::{memchr, memchr_iter};

const LOW: u64 = 0x7f7f_7f7f_7f7f_7f7f;
const WORD_BYTES: usize = size_of::<u64>();
/// No column has asked for this field.
const UNWANTED: u32 = u32::MAX;

/// A field: so many bytes of the block, or behind its end of the texts whose doubled quotes were taken out.
#[derive(Clone, Copy)]
pub(crate) struct Span {
    start: u32,
    len: u32,
}

/// Which fields are taken of a record.
pub(crate) struct Layout {
    delimiter: u8,
    /// By field: the number of the column that wants it.
    slots: Vec<u32>,
    columns: usize,
}

impl Span {
    pub(crate) fn len(&self) -> usize {
        self.len as usize
    }
}

impl Layout {
    /// Records have `width` fields; `wanted` are the numbers of those of the columns, each once.
    pub(crate) fn new(delimiter: u8, width: usize, wanted: &[usize]) -> Option<Self> {
        if b"\"\r\n".contains(&delimiter) {
            return None;
        }
        let mut slots = vec![UNWANTED; width];
        for (column, field) in wanted.iter().enumerate() {
            let slot = slots.get_mut(*field)?;
            if *slot != UNWANTED {
                return None;
            }
            *slot = column as u32;
        }
        Some(Self { delimiter, slots, columns: wanted.len() })
    }
}

/// How much is taken at once.
pub(crate) struct Limits {
    /// Records that begin within so many lines.
    pub(crate) lines: usize,
    /// And within so many bytes of lines, their ends not counted; but the first line in any case.
    pub(crate) batch_bytes: usize,
    /// A record of several lines has no more, their ends counted.
    pub(crate) record_bytes: usize,
    /// Nothing follows the block.
    pub(crate) is_end: bool,
}

/// Fields by column, and how much of the block they are.
pub(crate) struct Fields<'a> {
    data: &'a [u8],
    unescaped: Vec<u8>,
    pub(crate) columns: Vec<Vec<Span>>,
    /// Records that are not blank lines.
    pub(crate) rows: usize,
    pub(crate) records: usize,
    pub(crate) lines: usize,
    pub(crate) bytes: usize,
}

impl<'a> Fields<'a> {
    /// Those of the records from `start` on in a block of whole lines, the last of which has its end; `None` if they
    /// may have another reading, or are not all there.
    pub(crate) fn split(
        data: &'a [u8],
        start: usize,
        layout: &Layout,
        limits: &Limits,
    ) -> Option<Self> {
        if data.len() >= UNWANTED as usize || data.last() != Some(&b'\n') || start >= data.len() {
            return None;
        }
        let capacity = limits.lines.min((data.len() - start) / layout.slots.len().max(1) + 1);
        let mut found = Self {
            data,
            unescaped: Vec::new(),
            columns: (0..layout.columns).map(|_| Vec::with_capacity(capacity)).collect(),
            rows: 0,
            records: 0,
            lines: 0,
            bytes: 0,
        };
        found.take(start, layout, limits)?;
        Some(found)
    }

    /// The bytes that they are in.
    pub(crate) fn taken(&self, start: usize) -> &'a [u8] {
        &self.data[start..start + self.bytes]
    }

    /// The bytes of a field.
    pub(crate) fn text(&self, span: Span) -> &[u8] {
        let (start, len) = (span.start as usize, span.len as usize);
        match start.checked_sub(self.data.len()) {
            None => &self.data[start..start + len],
            Some(start) => &self.unescaped[start..start + len],
        }
    }

    fn take(&mut self, start: usize, layout: &Layout, limits: &Limits) -> Option<()> {
        let mut scan = Scan::new(self.data, start, layout.delimiter);
        let mut record = start;
        let mut is_full = false;
        while self.lines < limits.lines && record < self.data.len() {
            let Some(one) = self.record(record, &mut scan, layout)? else {
                // A blank line.
                let line_end = scan.last;
                if !self.fits(start, line_end, limits) {
                    is_full = true;
                    break;
                }
                (self.records, self.lines, record) =
                    (self.records + 1, self.lines + 1, line_end + 1);
                continue;
            };
            if !self.fits(start, one.first_line_end, limits) {
                self.columns.iter_mut().for_each(|column| column.truncate(self.rows));
                is_full = true;
                break;
            }
            let next = scan.last + 1;
            if one.lines > 1 && next - record > limits.record_bytes {
                return None;
            }
            self.rows += 1;
            self.records += 1;
            self.lines += one.lines;
            record = next;
        }
        self.bytes = record - start;
        // Otherwise what was asked for may go on behind the block.
        (is_full || self.lines >= limits.lines || limits.is_end).then_some(())
    }

    /// Whether the line that ends there may be the next one.
    fn fits(&self, start: usize, line_end: usize, limits: &Limits) -> bool {
        self.lines == 0 || line_end - start - self.lines <= limits.batch_bytes
    }

    /// Takes one record; of a blank line `Some(None)`. The scan has come to the line end behind it.
    #[inline]
    fn record(
        &mut self,
        start: usize,
        scan: &mut Scan<'_>,
        layout: &Layout,
    ) -> Option<Option<Record>> {
        let data = self.data;
        let (mut at, mut field) = (start, 0);
        let mut record = Record { lines: 1, first_line_end: 0 };
        loop {
            let slot = *layout.slots.get(field).unwrap_or(&UNWANTED);
            let is_quoted = data[at] == b'"';
            let (span, mut end) = if is_quoted {
                let (span, end) = self.quoted(at, slot != UNWANTED, &mut record)?;
                // Behind the quote comes what ends the field, at once.
                if scan.seek(end)? != end {
                    return None;
                }
                (span, end)
            } else {
                let end = scan.next()?;
                (Span { start: at as u32, len: (end - at) as u32 }, end)
            };
            let is_last = data[end] != layout.delimiter;
            if is_last && data[end] == b'\r' {
                end = scan.next()?;
                // Others Python takes for an end, or refuses.
                if data[end] != b'\n' || data[end - 1] != b'\r' {
                    return None;
                }
            }
            if is_last && field == 0 && !is_quoted && span.len == 0 {
                return Some(None);
            }
            if slot != UNWANTED {
                self.columns[slot as usize].push(span);
            }
            field += 1;
            if is_last {
                if record.lines == 1 {
                    record.first_line_end = end;
                }
                return (field == layout.slots.len()).then_some(Some(record));
            }
            at = end + 1;
        }
    }

    /// A field in quotes that begin at `start`, and where its closing one is behind us.
    #[inline(never)]
    fn quoted(
        &mut self,
        start: usize,
        is_wanted: bool,
        record: &mut Record,
    ) -> Option<(Span, usize)> {
        let data = self.data;
        let mut close = start + 1;
        let mut doubled = 0;
        loop {
            close += memchr(b'"', data.get(close..)?)?;
            if data.get(close + 1) != Some(&b'"') {
                break;
            }
            doubled += 1;
            close += 2;
        }
        let text = &data[start + 1..close];
        let mut ends = memchr_iter(b'\n', text);
        if let Some(end) = ends.next() {
            if record.lines == 1 {
                record.first_line_end = start + 1 + end;
            }
            record.lines += 1 + ends.count();
        }
        let span = if doubled == 0 || !is_wanted {
            Span { start: start as u32 + 1, len: text.len() as u32 }
        } else {
            let begun = self.unescaped.len();
            let mut rest = text;
            while let Some(quote) = memchr(b'"', rest) {
                self.unescaped.extend_from_slice(&rest[..=quote]);
                rest = &rest[quote + 2..];
            }
            self.unescaped.extend_from_slice(rest);
            let start = u32::try_from(data.len() + begun).ok()?;
            Span { start, len: (self.unescaped.len() - begun) as u32 }
        };
        Some((span, close + 1))
    }
}

/// Of a record that was taken.
struct Record {
    lines: usize,
    first_line_end: usize,
}

/// Goes from one byte that ends a field to the next: the delimiter, a line feed, a carriage return.
///
/// Eight bytes at a time are compared in a word (H. S. Warren, Hacker's Delight, "Find First 0-Byte").
struct Scan<'a> {
    data: &'a [u8],
    delimiter: u64,
    word_at: usize,
    /// The top bit of each byte of the word that ends a field and was not handed out yet.
    ends: u64,
    /// What was handed out last.
    last: usize,
}

impl<'a> Scan<'a> {
    fn new(data: &'a [u8], start: usize, delimiter: u8) -> Self {
        let mut scan =
            Self { data, delimiter: repeat(delimiter), word_at: start, ends: 0, last: start };
        scan.look();
        scan
    }

    /// The next one; `None` at the end.
    #[inline]
    fn next(&mut self) -> Option<usize> {
        while self.ends == 0 {
            self.word_at += WORD_BYTES;
            if self.word_at >= self.data.len() {
                return None;
            }
            self.look();
        }
        self.last = self.word_at + self.ends.trailing_zeros() as usize / 8;
        self.ends &= self.ends - 1;
        Some(self.last)
    }

    /// The next one from `at` on.
    fn seek(&mut self, at: usize) -> Option<usize> {
        if at >= self.data.len() {
            return None;
        }
        self.word_at = at;
        self.look();
        self.next()
    }

    #[inline]
    fn look(&mut self) {
        let word = match self.data[self.word_at..].first_chunk::<WORD_BYTES>() {
            Some(bytes) => u64::from_le_bytes(*bytes),
            None => {
                // A quote ends no field here.
                let mut bytes = [b'"'; WORD_BYTES];
                let rest = &self.data[self.word_at..];
                bytes[..rest.len()].copy_from_slice(rest);
                u64::from_le_bytes(bytes)
            }
        };
        self.ends =
            equal(word, self.delimiter) | equal(word, repeat(b'\n')) | equal(word, repeat(b'\r'));
    }
}

const fn repeat(byte: u8) -> u64 {
    u64::from_le_bytes([byte; WORD_BYTES])
}

/// The top bit of each byte that is the same in both.
#[inline]
const fn equal(one: u64, other: u64) -> u64 {
    let differences = one ^ other;
    !(((differences & LOW) + LOW) | differences | LOW)
}
