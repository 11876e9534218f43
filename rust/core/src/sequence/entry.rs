//! A producer as bytes: what a checkpoint keeps of it.
//!
//! ```text
//! format 1   u8 = 1 | kind u8 | 0 u16 | last sequence u32 | epoch i64 | last accepted s f64 | len u32
//! kind 0     first sequence u32 | len x (last sequence u32, bit 31: has a position | position i64)
//! kind 1     ceil(len / 64) x u64: bit i = sequence (last - len + 1 + i) was seen
//! ```
//! Little-endian. The batches of an ordered window follow one another, so only the oldest one's
//! first sequence is kept.

use super::ordered::AcceptedBatch;
use super::producers::{Header, Producers, Windows};
use super::serial::{self, MAX_SPAN};
use super::unordered::mask;
use super::{MAX_WINDOW, NO_PRODUCER_ID};
use crate::{Detail, Error, ErrorKind, Result};

const FORMAT: u8 = 1;
const ORDERED: u8 = 0;
const UNORDERED: u8 = 1;

/// Appends the entry of a slot.
pub(super) fn encode(producers: &Producers, slot: usize, out: &mut Vec<u8>) {
    let header = producers.header(slot);
    let kind = match producers.windows() {
        Windows::Ordered(_) => ORDERED,
        Windows::Unordered(_) => UNORDERED,
    };
    out.extend([FORMAT, kind, 0, 0]);
    out.extend((header.last_sequence as u32).to_le_bytes());
    out.extend(header.epoch.to_le_bytes());
    out.extend(header.last_accepted_s.to_le_bytes());
    out.extend(header.len.to_le_bytes());
    match producers.windows() {
        Windows::Ordered(windows) => {
            out.extend((windows.get(slot, header, 0).first_sequence as u32).to_le_bytes());
            for age in 0..header.len as usize {
                let batch = windows.get(slot, header, age);
                let (last_and_flag, position) = batch.to_words();
                out.extend(last_and_flag.to_le_bytes());
                out.extend(position.to_le_bytes());
            }
        }
        Windows::Unordered(windows) => {
            let oldest = serial::add(header.last_sequence, 0u32.wrapping_sub(header.len - 1));
            for (from, count) in chunks(header.len) {
                let bits = windows.read(slot, serial::add(oldest, from), count);
                out.extend(bits.to_le_bytes());
            }
        }
    }
}

/// Adds a producer from its bytes. Of a window that is longer than the table's the newest part
/// is kept.
///
/// `StoreCorrupt` if no deduplicator wrote these bytes, `StoreFormat` if a newer version did,
/// `StoreMismatch` for the other kind of window. Then the table may hold half an entry: drop it.
pub(super) fn decode_into(producers: &mut Producers, producer_id: i64, bytes: &[u8]) -> Result<()> {
    let mut reader = Reader { producer_id, rest: bytes };
    let [format, kind, zero_0, zero_1] = reader.take()?;
    if format != FORMAT {
        let text = format!(
            "the entry of producer {producer_id} has format {format}, this version reads {FORMAT}: \
             update onceflow"
        );
        return Err(Error::new(ErrorKind::StoreFormat, text)
            .with(Detail::Format { version: format.into(), newest: FORMAT.into() }));
    }
    if kind > UNORDERED || zero_0 != 0 || zero_1 != 0 {
        return Err(reader.damaged("its head is unknown"));
    }
    let has = if matches!(producers.windows(), Windows::Ordered(_)) { ORDERED } else { UNORDERED };
    if kind != has {
        let name = |kind| if kind == ORDERED { "ordered" } else { "unordered" };
        let text = format!(
            "the stored producers are {}, this deduplicator is {}: use the order that they were \
             stored with, or another name",
            name(kind),
            name(has)
        );
        return Err(Error::new(ErrorKind::StoreMismatch, text).with(Detail::Setting {
            setting: "order",
            stored: name(kind).to_owned(),
            given: name(has).to_owned(),
        }));
    }
    let last_sequence = reader.sequence()?;
    let epoch = i64::from_le_bytes(reader.take()?);
    let last_accepted_s = f64::from_le_bytes(reader.take()?);
    let len = u32::from_le_bytes(reader.take()?);
    if producer_id == NO_PRODUCER_ID || epoch < 0 || !last_accepted_s.is_finite() {
        return Err(reader.damaged("its producer id, epoch or time cannot be"));
    }
    if len == 0 || len as usize > MAX_WINDOW {
        return Err(reader.damaged("its window cannot be so long"));
    }
    if producers.find(producer_id).is_some() {
        return Err(reader.damaged("it is there twice"));
    }
    let slot = producers.insert(Header::new(producer_id, epoch, last_accepted_s));
    let (header, windows) = producers.entry_mut(slot);
    header.last_sequence = last_sequence;
    match windows {
        Windows::Ordered(windows) => {
            let mut first = reader.sequence()?;
            let mut span = 0_u64;
            for age in 0..len as usize {
                let last_and_flag = u32::from_le_bytes(reader.take()?);
                let position = i64::from_le_bytes(reader.take()?);
                let batch = AcceptedBatch::from_words(first, last_and_flag, position);
                span += u64::from(serial::count(first, batch.last_sequence()));
                first = serial::add(batch.last_sequence(), 1);
                if len as usize - age <= windows.window() {
                    windows.push_batch(slot, header, batch);
                }
            }
            if span > u64::from(MAX_SPAN) || header.last_sequence != last_sequence {
                return Err(reader.damaged("its batches do not follow one another"));
            }
        }
        Windows::Unordered(windows) => {
            header.len = len.min(windows.window());
            let dropped = len - header.len;
            let oldest = serial::add(last_sequence, 0u32.wrapping_sub(len - 1));
            for (from, count) in chunks(len) {
                let bits = u64::from_le_bytes(reader.take()?);
                if bits & !mask(count) != 0 || from + count == len && bits >> (count - 1) == 0 {
                    return Err(reader.damaged("its bitmap does not end with the last sequence"));
                }
                // A bitmap is never longer than the table's after what the window dropped.
                let skip = dropped.saturating_sub(from).min(count);
                if skip < count {
                    let first = serial::add(oldest, from + skip);
                    windows.write(slot, first, count - skip, bits >> skip);
                }
            }
        }
    }
    if !reader.rest.is_empty() {
        return Err(reader.damaged("bytes follow its end"));
    }
    Ok(())
}

/// Starts and lengths of a bitmap's words.
fn chunks(len: u32) -> impl Iterator<Item = (u32, u32)> {
    (0..len).step_by(64).map(move |from| (from, (len - from).min(64)))
}

struct Reader<'a> {
    producer_id: i64,
    rest: &'a [u8],
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        match self.rest.split_first_chunk() {
            Some((bytes, rest)) => {
                self.rest = rest;
                Ok(*bytes)
            }
            None => Err(self.damaged("it is truncated")),
        }
    }

    fn sequence(&mut self) -> Result<i32> {
        let value = u32::from_le_bytes(self.take()?);
        i32::try_from(value).map_err(|_| self.damaged("a sequence is out of range"))
    }

    fn damaged(&self, how: &str) -> Error {
        let text = format!(
            "the stored entry of producer {} is damaged: {how}. Nothing was restored; restore an \
             older snapshot together with its input positions",
            self.producer_id
        );
        Error::new(ErrorKind::StoreCorrupt, text)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Batches, DedupeMode, Deduplicator, DeduplicatorOptions, Order};
    use super::*;

    fn entry_of(options: DeduplicatorOptions, batches: &[(i32, i32)]) -> Vec<u8> {
        let mut dedupe = Deduplicator::new(options).unwrap();
        for (first, last) in batches {
            let (ids, epochs) = ([7], [2]);
            let positions = [i64::from(*first) * 10];
            let batch = Batches::new(
                &ids,
                &epochs,
                std::slice::from_ref(first),
                std::slice::from_ref(last),
                Some(&positions),
            )
            .unwrap();
            dedupe.check_many(&batch, 1.5).unwrap();
        }
        let changes = dedupe.changes();
        assert_eq!(changes.producer_ids(), [7]);
        changes.entry(0).to_vec()
    }

    /// Pins the format: these bytes were written by the first version.
    #[test]
    fn format_1_of_an_ordered_entry() {
        let options = DeduplicatorOptions { window: 2, ..Default::default() };
        let entry = entry_of(options, &[(0, 0), (1, 4), (5, 5)]);
        let mut expected = vec![1, 0, 0, 0, 5, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0];
        expected.extend([0, 0, 0, 0, 0, 0, 0xF8, 0x3F, 2, 0, 0, 0, 1, 0, 0, 0]);
        expected.extend([4, 0, 0, 0x80, 10, 0, 0, 0, 0, 0, 0, 0]);
        expected.extend([5, 0, 0, 0x80, 50, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(entry, expected);
    }

    #[test]
    fn format_1_of_an_unordered_entry() {
        let options = DeduplicatorOptions {
            window: 70,
            order: Order::Unordered,
            mode: DedupeMode::Compatible,
            ..Default::default()
        };
        let entry = entry_of(options, &[(100, 101), (99, 99), (33, 33)]);
        let mut expected = vec![1, 1, 0, 0, 101, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0];
        expected.extend([0, 0, 0, 0, 0, 0, 0xF8, 0x3F, 70, 0, 0, 0]);
        // The window is 32 to 101.
        expected.extend((1_u64 << 1).to_le_bytes());
        expected.extend((0b111_u64 << 3).to_le_bytes());
        assert_eq!(entry, expected);
    }

    /// Every shortened entry, and every entry with one bit flipped, is refused or reads as a
    /// state that can be (an entry alone has no checksum: that of its chunk or snapshot is).
    #[test]
    fn damaged_entries_never_panic() {
        for order in [Order::Ordered, Order::Unordered] {
            let options = DeduplicatorOptions { window: 80, order, ..Default::default() };
            let batches: Vec<(i32, i32)> = (0..90).map(|i| (i * 3, i * 3 + 2)).collect();
            let entry = entry_of(options, &batches);
            for cut in 0..entry.len() {
                let error = decode_into(&mut Producers::new(order, 80), 7, &entry[..cut]);
                assert_eq!(error.unwrap_err().kind(), ErrorKind::StoreCorrupt, "cut at {cut}");
            }
            for bit in 0..entry.len() * 8 {
                let mut flipped = entry.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                let mut producers = Producers::new(order, 80);
                if decode_into(&mut producers, 7, &flipped).is_ok() {
                    let mut again = Vec::new();
                    encode(&producers, 0, &mut again);
                    assert_eq!(again, flipped, "bit {bit} was dropped in silence");
                }
            }
        }
    }
}
