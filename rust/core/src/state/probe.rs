//! Where a key lies: start slots by hash, linear probing, one form of key a monomorphic loop.

use crate::hash::{hash_bytes, hash_u64, hash_words};

use super::Bytes;
use super::prefetch::prefetch;
use crate::rows::layout::{INLINE_BYTES, OCCUPIED, key_len, key_view};
use crate::rows::slab::Slab;

/// Number of slots and words of a slot: what turns a hash into an offset.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Geometry {
    /// A power of two, at least 16.
    pub(crate) slots: usize,
    pub(crate) stride: usize,
    shift: u32,
}

impl Geometry {
    pub(crate) fn new(slots: usize, stride: usize) -> Self {
        debug_assert!(slots.is_power_of_two() && slots >= 2);
        Self { slots, stride, shift: 64 - slots.trailing_zeros() }
    }

    /// The first slot where a key of this hash may lie, the first one of a bucket of two: rows of
    /// 32 bytes share a cache line with the other one of their bucket. Slots ascend with hashes.
    #[inline]
    pub(crate) fn start(self, hash: u64) -> usize {
        (hash >> self.shift) as usize & !1
    }

    #[inline]
    pub(crate) fn next(self, slot: usize) -> usize {
        (slot + 1) & (self.slots - 1)
    }

    /// Most occupied slots before the table must grow.
    pub(crate) fn limit(self) -> usize {
        self.slots / 4 * 3
    }

    /// The start slot of the first key of a group.
    pub(crate) fn group_start(self, group: usize, groups: usize) -> usize {
        (group as u128 * self.slots as u128 / groups as u128) as usize & !1
    }
}

/// Keys of one batch in one form.
pub(crate) trait KeySource {
    /// A key prepared for comparison with rows.
    type Probe;
    /// Words of a key in a row, given what the layout says.
    fn words(of_layout: usize) -> usize {
        of_layout
    }
    fn len(&self) -> usize;
    fn hash(&self, index: usize) -> u64;
    fn probe(&self, index: usize, hash: u64) -> Self::Probe;
    fn equals(&self, index: usize, probe: &Self::Probe, key: &[u64], slab: &Slab) -> bool;
    fn write(&self, index: usize, probe: &Self::Probe, key: &mut [u64], slab: &mut Slab);
    /// Bytes that are the same for equal keys only.
    fn identity(&self, index: usize) -> Vec<u8>;
    /// Memory beyond the rows that keys of this batch may take.
    fn long_bytes(&self) -> usize {
        0
    }
}

/// Integers of one word; i64 as its bits.
pub(crate) struct IntKeys<'a>(pub(crate) &'a [u64]);

impl KeySource for IntKeys<'_> {
    type Probe = u64;

    #[inline]
    fn words(_: usize) -> usize {
        1
    }

    #[inline]
    fn len(&self) -> usize {
        self.0.len()
    }

    #[inline]
    fn hash(&self, index: usize) -> u64 {
        hash_u64(self.0[index])
    }

    #[inline]
    fn probe(&self, index: usize, _: u64) -> u64 {
        self.0[index]
    }

    #[inline]
    fn equals(&self, _: usize, probe: &u64, key: &[u64], _: &Slab) -> bool {
        key[0] == *probe
    }

    #[inline]
    fn write(&self, _: usize, probe: &u64, key: &mut [u64], _: &mut Slab) {
        key[0] = *probe;
    }

    fn identity(&self, index: usize) -> Vec<u8> {
        self.0[index].to_le_bytes().to_vec()
    }
}

/// Tuples of integers.
pub(crate) struct WordKeys<'a> {
    pub(crate) width: usize,
    pub(crate) words: &'a [u64],
}

impl WordKeys<'_> {
    #[inline]
    fn key(&self, index: usize) -> &[u64] {
        &self.words[index * self.width..(index + 1) * self.width]
    }
}

impl KeySource for WordKeys<'_> {
    type Probe = ();

    #[inline]
    fn len(&self) -> usize {
        self.words.len() / self.width
    }

    #[inline]
    fn hash(&self, index: usize) -> u64 {
        hash_words(self.key(index))
    }

    #[inline]
    fn probe(&self, _: usize, _: u64) {}

    #[inline]
    fn equals(&self, index: usize, (): &(), key: &[u64], _: &Slab) -> bool {
        key == self.key(index)
    }

    #[inline]
    fn write(&self, index: usize, (): &(), key: &mut [u64], _: &mut Slab) {
        key.copy_from_slice(self.key(index));
    }

    fn identity(&self, index: usize) -> Vec<u8> {
        bytemuck::cast_slice(self.key(index)).to_vec()
    }
}

/// Byte strings, str, and tuples in their encoding.
pub(crate) struct ByteKeys<'a>(pub(crate) Bytes<'a>);

impl KeySource for ByteKeys<'_> {
    type Probe = [u64; 2];

    #[inline]
    fn words(_: usize) -> usize {
        2
    }

    #[inline]
    fn len(&self) -> usize {
        self.0.len()
    }

    #[inline]
    fn hash(&self, index: usize) -> u64 {
        hash_bytes(self.0.get(index))
    }

    #[inline]
    fn probe(&self, index: usize, hash: u64) -> [u64; 2] {
        key_view(self.0.get(index), hash)
    }

    #[inline]
    fn equals(&self, index: usize, probe: &[u64; 2], key: &[u64], slab: &Slab) -> bool {
        if key[0] != probe[0] {
            return false;
        }
        let bytes = self.0.get(index);
        if bytes.len() <= INLINE_BYTES {
            return key[1] == probe[1];
        }
        key[1] >> 32 == probe[1] >> 32 && slab.get(key[1] as u32) == bytes
    }

    #[inline]
    fn write(&self, index: usize, probe: &[u64; 2], key: &mut [u64], slab: &mut Slab) {
        key.copy_from_slice(probe);
        let bytes = self.0.get(index);
        if bytes.len() > INLINE_BYTES {
            key[1] |= u64::from(slab.insert(bytes));
        }
    }

    fn identity(&self, index: usize) -> Vec<u8> {
        self.0.get(index).to_vec()
    }

    fn long_bytes(&self) -> usize {
        super::update::long_key_bytes(&self.0)
    }
}

/// A row that was read from a chunk; `bytes` holds long keys.
pub(crate) struct RowKey<'a> {
    pub(crate) key: &'a [u64],
    pub(crate) hash: u64,
    pub(crate) byte_key: bool,
    pub(crate) bytes: &'a [u8],
}

impl RowKey<'_> {
    fn long(&self) -> Option<&[u8]> {
        let len = (self.key[0] & 0xFFFF_FFFF) as usize;
        (self.byte_key && len > INLINE_BYTES).then(|| {
            let start = self.key[1] as usize;
            self.bytes.get(start..start.saturating_add(len)).unwrap_or_default()
        })
    }
}

impl KeySource for RowKey<'_> {
    type Probe = ();

    fn len(&self) -> usize {
        1
    }

    #[inline]
    fn hash(&self, _: usize) -> u64 {
        self.hash
    }

    #[inline]
    fn probe(&self, _: usize, _: u64) {}

    #[inline]
    fn equals(&self, _: usize, (): &(), key: &[u64], slab: &Slab) -> bool {
        match self.long() {
            None => key == self.key,
            Some(bytes) => {
                key[0] == self.key[0]
                    && key[1] >> 32 == self.hash >> 32
                    && slab.get(key[1] as u32) == bytes
            }
        }
    }

    #[inline]
    fn write(&self, _: usize, (): &(), key: &mut [u64], slab: &mut Slab) {
        match self.long() {
            None => key.copy_from_slice(self.key),
            Some(bytes) => {
                key[0] = self.key[0];
                key[1] = self.hash & !0xFFFF_FFFF | u64::from(slab.insert(bytes));
            }
        }
    }

    fn identity(&self, _: usize) -> Vec<u8> {
        self.long().map_or_else(|| bytemuck::cast_slice(self.key).to_vec(), <[u8]>::to_vec)
    }
}

/// Keys handled at once: their rows stay in the first-level cache from one step to the next.
pub(crate) const BLOCK: usize = 64;

/// Hashes a key and asks for its first bucket, which then comes while other keys are worked on.
#[inline(always)]
pub(crate) fn hash_ahead<K: KeySource>(
    keys: &K,
    index: usize,
    words: &[u64],
    (geometry, stride): (Geometry, usize),
) -> u64 {
    let hash = keys.hash(index);
    prefetch(words, geometry.start(hash) * stride);
    hash
}

/// The slot of a key and true, or the empty slot where it would go and false.
#[inline]
pub(crate) fn find<K: KeySource>(
    words: &[u64],
    geometry: Geometry,
    key_words: usize,
    slab: &Slab,
    keys: &K,
    (index, hash, probe): (usize, u64, &K::Probe),
) -> (usize, bool) {
    let mut slot = geometry.start(hash);
    loop {
        let at = slot * geometry.stride;
        let row = &words[at..at + 1 + key_words];
        if row[0] & OCCUPIED == 0 {
            return (slot, false);
        }
        if keys.equals(index, probe, &row[1..], slab) {
            return (slot, true);
        }
        slot = geometry.next(slot);
    }
}

/// True if the second word of a row's key is a handle.
#[inline]
pub(crate) fn has_long_key(integer_key: bool, row: &[u64]) -> bool {
    !integer_key && key_len(row) > INLINE_BYTES
}
