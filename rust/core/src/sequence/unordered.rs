//! The window of an unordered producer: a bitmap over its newest sequences.
//!
//! Bit `sequence % capacity` says whether a sequence of the window was seen. The capacity is a
//! power of two that divides the 2^31 sequences, so nothing moves when the window does, and the
//! wrap to 0 is like any other step.

use super::producers::Header;
use super::serial::{self, MAX_SPAN};
use super::{Batch, Verdict};

const WORD_BITS: u32 = u64::BITS;

#[derive(Debug, Clone)]
pub(super) struct UnorderedWindows {
    /// Sequences a producer.
    window: u32,
    /// Words of a bitmap, a power of two.
    words: usize,
    /// One bitmap after the other.
    bits: Vec<u64>,
}

impl UnorderedWindows {
    pub(super) fn new(window: usize) -> Self {
        Self { window: window as u32, words: words(window), bits: Vec::new() }
    }

    pub(super) fn bytes_of_one(window: usize) -> usize {
        words(window) * size_of::<u64>()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.bits.capacity() * size_of::<u64>()
    }

    pub(super) fn judge(&self, slot: usize, header: &Header, batch: &Batch) -> Verdict {
        let end = serial::add(header.last_sequence, 1);
        let behind = serial::distance(batch.first_sequence, end);
        if behind == 0 || behind > MAX_SPAN {
            return Verdict::Accept;
        }
        if behind > header.len {
            return Verdict::TooOld;
        }
        let count = serial::count(batch.first_sequence, batch.last_sequence);
        let inside = count.min(behind);
        let seen: u32 = self
            .parts(batch.first_sequence, inside)
            .map(|(word, mask)| (self.bitmap(slot)[word] & mask).count_ones())
            .sum();
        if seen == 0 {
            Verdict::Accept
        } else if seen == count {
            Verdict::Duplicate { position: None }
        } else {
            let steps = 0..inside;
            let unseen = steps
                .map(|step| serial::add(batch.first_sequence, step))
                .find(|sequence| !self.is_seen(slot, *sequence));
            Verdict::Gap { expected: unseen.unwrap_or(end) }
        }
    }

    /// Remembers the first batch of a producer or of an epoch. What came before it since 0 may
    /// still come.
    pub(super) fn start(&mut self, slot: usize, header: &mut Header, batch: &Batch) {
        self.bitmap_mut(slot).fill(0);
        let wraps = batch.last_sequence < batch.first_sequence;
        let since_zero = batch.last_sequence as u32 + 1;
        header.len = if wraps { self.window } else { since_zero.min(self.window) };
        header.last_sequence = batch.last_sequence;
        self.see(slot, batch.first_sequence, batch.last_sequence);
    }

    /// Remembers a batch that was accepted by [`Self::judge`].
    pub(super) fn append(&mut self, slot: usize, header: &mut Header, batch: &Batch) {
        let end = serial::add(header.last_sequence, 1);
        let skipped = serial::distance(end, batch.first_sequence);
        let is_ahead = skipped < MAX_SPAN;
        if is_ahead {
            self.clear(slot, end, skipped);
        }
        let advance = serial::distance(header.last_sequence, batch.last_sequence);
        // A batch that fills a hole leaves the window where it is.
        if is_ahead || advance <= MAX_SPAN {
            header.last_sequence = batch.last_sequence;
            header.len = header.len.saturating_add(advance).min(self.window);
        }
        self.see(slot, batch.first_sequence, batch.last_sequence);
    }

    /// The `count` (at most 64) bits from `first` on, lowest bit first.
    pub(super) fn read(&self, slot: usize, first: i32, count: u32) -> u64 {
        let (word, shift) = self.place(first);
        let bitmap = self.bitmap(slot);
        let low = bitmap[word] >> shift;
        let high = if shift == 0 {
            0
        } else {
            bitmap[(word + 1) & (self.words - 1)] << (WORD_BITS - shift)
        };
        (low | high) & mask(count)
    }

    /// Marks those of the `count` (at most 64) sequences from `first` on whose bit is set.
    pub(super) fn write(&mut self, slot: usize, first: i32, count: u32, bits: u64) {
        let (word, shift) = self.place(first);
        let bits = bits & mask(count);
        let next = (word + 1) & (self.words - 1);
        let bitmap = self.bitmap_mut(slot);
        bitmap[word] |= bits << shift;
        if shift != 0 {
            bitmap[next] |= bits >> (WORD_BITS - shift);
        }
    }

    pub(super) fn window(&self) -> u32 {
        self.window
    }

    fn is_seen(&self, slot: usize, sequence: i32) -> bool {
        let (word, shift) = self.place(sequence);
        self.bitmap(slot)[word] >> shift & 1 == 1
    }

    fn see(&mut self, slot: usize, first: i32, last: i32) {
        // Of a batch longer than the bitmap the newest sequences are left.
        let count = serial::count(first, last);
        let kept = count.min(self.capacity());
        let parts = self.parts(serial::add(first, count - kept), kept);
        let bitmap = self.bitmap_mut(slot);
        parts.for_each(|(word, mask)| bitmap[word] |= mask);
    }

    fn clear(&mut self, slot: usize, first: i32, count: u32) {
        let parts = self.parts(first, count.min(self.capacity()));
        let bitmap = self.bitmap_mut(slot);
        parts.for_each(|(word, mask)| bitmap[word] &= !mask);
    }

    /// The words, with the bits in them, of `count` sequences (at most the capacity).
    fn parts(&self, first: i32, count: u32) -> impl Iterator<Item = (usize, u64)> + use<> {
        let (mut word, mut shift) = self.place(first);
        let words = self.words;
        let mut left = count;
        std::iter::from_fn(move || {
            if left == 0 {
                return None;
            }
            let bits = left.min(WORD_BITS - shift);
            let part = (word, mask(bits) << shift);
            left -= bits;
            word = (word + 1) & (words - 1);
            shift = 0;
            Some(part)
        })
    }

    fn place(&self, sequence: i32) -> (usize, u32) {
        let bit = sequence as u32 & (self.capacity() - 1);
        ((bit / WORD_BITS) as usize, bit % WORD_BITS)
    }

    fn capacity(&self) -> u32 {
        self.words as u32 * WORD_BITS
    }

    fn bitmap(&self, slot: usize) -> &[u64] {
        &self.bits[slot * self.words..(slot + 1) * self.words]
    }

    fn bitmap_mut(&mut self, slot: usize) -> &mut [u64] {
        &mut self.bits[slot * self.words..(slot + 1) * self.words]
    }

    // ---- slots ---------------------------------------------------------------------------

    pub(super) fn push(&mut self) {
        self.bits.resize(self.bits.len() + self.words, 0);
    }

    pub(super) fn copy(&mut self, slot: usize, other: &Self, other_slot: usize) {
        self.bitmap_mut(slot).copy_from_slice(other.bitmap(other_slot));
    }

    pub(super) fn swap_remove(&mut self, slot: usize) {
        let last = self.bits.len() - self.words;
        self.bits.copy_within(last.., slot * self.words);
        self.bits.truncate(last);
    }
}

/// Words of a bitmap.
fn words(window: usize) -> usize {
    window.div_ceil(WORD_BITS as usize).next_power_of_two()
}

/// The lowest `count` (at most 64) bits.
pub(super) fn mask(count: u32) -> u64 {
    if count >= WORD_BITS { u64::MAX } else { (1 << count) - 1 }
}
