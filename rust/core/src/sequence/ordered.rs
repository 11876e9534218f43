//! The window of an ordered producer: a ring of its newest batches.

use super::producers::Header;
use super::serial::{self, MAX_SPAN};
use super::{Batch, Verdict};

/// A batch that was accepted. A producer's batches follow one another without a gap.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct AcceptedBatch {
    pub(super) first_sequence: i32,
    /// With [`HAS_POSITION`] set if `position` means something.
    last_and_flag: u32,
    position: i64,
}

const HAS_POSITION: u32 = 1 << 31;

impl AcceptedBatch {
    pub(super) fn new(first_sequence: i32, last_sequence: i32, position: Option<i64>) -> Self {
        let flag = if position.is_some() { HAS_POSITION } else { 0 };
        let last_and_flag = last_sequence as u32 | flag;
        Self { first_sequence, last_and_flag, position: position.unwrap_or(0) }
    }

    pub(super) fn last_sequence(&self) -> i32 {
        (self.last_and_flag & !HAS_POSITION) as i32
    }

    /// As an entry keeps it: the last sequence with the flag, and the position.
    pub(super) fn to_words(self) -> (u32, i64) {
        (self.last_and_flag, self.position)
    }

    pub(super) fn from_words(first_sequence: i32, last_and_flag: u32, position: i64) -> Self {
        Self { first_sequence, last_and_flag, position }
    }

    pub(super) fn position(&self) -> Option<i64> {
        (self.last_and_flag & HAS_POSITION != 0).then_some(self.position)
    }
}

#[derive(Debug, Clone)]
pub(super) struct OrderedWindows {
    /// Batches a producer.
    window: usize,
    /// One ring after the other.
    batches: Vec<AcceptedBatch>,
    /// Whether any batch was so long that a full window of them would pass [`MAX_SPAN`].
    long_batches: bool,
}

impl OrderedWindows {
    pub(super) fn new(window: usize) -> Self {
        Self { window, batches: Vec::new(), long_batches: false }
    }

    pub(super) fn bytes_of_one(window: usize) -> usize {
        window * size_of::<AcceptedBatch>()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.batches.capacity() * size_of::<AcceptedBatch>()
    }

    pub(super) fn window(&self) -> usize {
        self.window
    }

    /// Batch `age` of the window, from the oldest (0) to the newest (`header.len` - 1).
    #[inline]
    pub(super) fn get(&self, slot: usize, header: &Header, age: usize) -> &AcceptedBatch {
        let place = header.next as usize + self.window - header.len as usize + age;
        // Both summands are below `window` each, so one subtraction is enough.
        let place = if place >= self.window { place - self.window } else { place };
        &self.batches[slot * self.window + place]
    }

    #[inline]
    pub(super) fn judge(&self, slot: usize, header: &Header, batch: &Batch) -> Verdict {
        let expected = serial::add(header.last_sequence, 1);
        if batch.first_sequence == expected {
            return Verdict::Accept;
        }
        let gap = Verdict::Gap { expected };
        let behind = serial::distance(batch.first_sequence, expected);
        if behind > MAX_SPAN {
            return gap;
        }
        let oldest = self.get(slot, header, 0).first_sequence;
        let covered = serial::distance(oldest, expected);
        if behind > covered {
            let count = serial::count(batch.first_sequence, batch.last_sequence);
            // Ending inside the window, it overlaps a batch that is known to have been another.
            return if behind - covered >= count { Verdict::TooOld } else { gap };
        }
        // The batches are in order, so the one that begins here is found by halving.
        let from_oldest = covered - behind;
        let (mut low, mut high) = (0, header.len as usize);
        while low < high {
            let middle = (low + high) / 2;
            let begin = self.get(slot, header, middle).first_sequence;
            if serial::distance(oldest, begin) < from_oldest {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        if low < header.len as usize {
            let accepted = self.get(slot, header, low);
            if accepted.first_sequence == batch.first_sequence
                && accepted.last_sequence() == batch.last_sequence
            {
                return Verdict::Duplicate { position: accepted.position() };
            }
        }
        gap
    }

    #[inline]
    pub(super) fn append(&mut self, slot: usize, header: &mut Header, batch: &Batch) {
        let Batch { first_sequence, last_sequence, position, .. } = *batch;
        self.push_batch(slot, header, AcceptedBatch::new(first_sequence, last_sequence, position));
    }

    #[inline]
    pub(super) fn push_batch(&mut self, slot: usize, header: &mut Header, batch: AcceptedBatch) {
        self.batches[slot * self.window + header.next as usize] = batch;
        header.last_sequence = batch.last_sequence();
        header.next = if header.next as usize + 1 == self.window { 0 } else { header.next + 1 };
        header.len = (header.len + 1).min(self.window as u32);
        // A window that spans half of all sequences would mistake the next round's for its own.
        let count = serial::count(batch.first_sequence, header.last_sequence);
        self.long_batches |= u64::from(count) * self.window as u64 > u64::from(MAX_SPAN);
        while self.long_batches && header.len > 1 && self.span(slot, header) > MAX_SPAN {
            header.len -= 1;
        }
    }

    /// Sequences that the window covers.
    fn span(&self, slot: usize, header: &Header) -> u32 {
        serial::count(self.get(slot, header, 0).first_sequence, header.last_sequence)
    }

    // ---- slots ---------------------------------------------------------------------------

    /// Loads what [`Self::append`] will write, so that it is in the cache by then.
    pub(super) fn touch(&self, slot: usize, header: &Header) -> u32 {
        self.batches[slot * self.window + header.next as usize].last_and_flag
    }

    pub(super) fn push(&mut self) {
        self.batches.resize(self.batches.len() + self.window, AcceptedBatch::default());
    }

    pub(super) fn copy(&mut self, slot: usize, other: &Self, other_slot: usize) {
        let window = self.window;
        self.long_batches |= other.long_batches;
        let from = &other.batches[other_slot * window..(other_slot + 1) * window];
        self.batches[slot * window..(slot + 1) * window].copy_from_slice(from);
    }

    pub(super) fn swap_remove(&mut self, slot: usize) {
        let last = self.batches.len() - self.window;
        self.batches.copy_within(last.., slot * self.window);
        self.batches.truncate(last);
    }
}
