//! Hashes that decide where a key lives. They are part of the file format: the same on every
//! machine and in every version (test vectors pin them).
//!
//! | key                                   | hash                                                 |
//! |---------------------------------------|------------------------------------------------------|
//! | i64, u64                              | [`hash_u64`] of its 64 bits                          |
//! | bytes, str                            | [`hash_bytes`]: XXH3-64, seed 0                      |
//! | tuple of integers                     | [`hash_words`]: each element folded into the hash    |
//! | any other tuple                       | [`hash_bytes`] of `KeysBuf::encode_tuple`            |
//!
//! The hashes have no secret: whoever chooses the keys can make them collide. That costs time
//! (longer probes), never correctness.

/// Hash of an integer key (i64 keys are hashed as their u64 bits).
#[inline]
pub fn hash_u64(key: u64) -> u64 {
    let product = u128::from(key ^ 0x9E37_79B9_7F4A_7C15) * u128::from(0xD6E8_FEB8_6659_FD93_u64);
    (product >> 64) as u64 ^ product as u64
}

/// Hash of a tuple of integers: `h = hash_u64(first)`, then `h = hash_u64(h + element)` for each
/// further one (the sum wraps).
#[inline]
pub fn hash_words(words: &[u64]) -> u64 {
    match words.split_first() {
        None => 0,
        Some((first, rest)) => {
            rest.iter().fold(hash_u64(*first), |hash, word| hash_u64(hash.wrapping_add(*word)))
        }
    }
}

/// Hash of a byte-string key.
#[inline]
pub fn hash_bytes(key: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(key)
}

/// MurmurHash2 as Apache Kafka's Java clients have it, which decides on the partition of a key there; nothing of ours lies
/// by it.
pub fn murmur2(bytes: &[u8]) -> u32 {
    const FACTOR: u32 = 0x5bd1_e995;
    let mut hash = 0x9747_b28c ^ bytes.len() as u32;
    let words = bytes.chunks_exact(4);
    let rest = words.remainder();
    for word in words {
        let mut word =
            u32::from_le_bytes([word[0], word[1], word[2], word[3]]).wrapping_mul(FACTOR);
        word ^= word >> 24;
        hash = hash.wrapping_mul(FACTOR) ^ word.wrapping_mul(FACTOR);
    }
    if !rest.is_empty() {
        for (place, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * place);
        }
        hash = hash.wrapping_mul(FACTOR);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(FACTOR);
    hash ^ (hash >> 15)
}

/// The key group of a hash among `groups` (a power of two): its topmost bits, so that tables
/// ordered by hash hold a key group in one piece.
#[inline]
pub fn key_group(hash: u64, groups: u16) -> u16 {
    debug_assert!(groups.is_power_of_two());
    if groups == 1 { 0 } else { (hash >> (64 - groups.trailing_zeros())) as u16 }
}
