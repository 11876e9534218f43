//! The whole state as one checksummed blob, for use without a state backend.
//!
//! ```text
//! "ofdedup1" | length of the whole u64 | producers u64
//! producers x (producer id i64 | length u32 | entry)
//! checksum u64: XXH3-64 of everything before it
//! ```
//! Little-endian; producers ascend, so that equal states give equal bytes.

use xxhash_rust::xxh3::xxh3_64;

use super::{Deduplicator, entry, prepared};
use crate::{Error, ErrorKind, Result};

const MAGIC: &[u8; 8] = b"ofdedup1";

impl Deduplicator {
    /// Everything that is remembered, as bytes.
    pub fn snapshot(&self) -> Vec<u8> {
        let mut slots: Vec<usize> = (0..self.len()).collect();
        slots.sort_unstable_by_key(|slot| self.producers.header(*slot).producer_id);
        let mut blob = Vec::new();
        blob.extend(MAGIC);
        blob.extend([0; 8]);
        blob.extend((slots.len() as u64).to_le_bytes());
        for slot in slots {
            blob.extend(self.producers.header(slot).producer_id.to_le_bytes());
            let at = blob.len();
            blob.extend([0; 4]);
            entry::encode(&self.producers, slot, &mut blob);
            let length = (blob.len() - at - 4) as u32;
            blob[at..at + 4].copy_from_slice(&length.to_le_bytes());
        }
        let length = blob.len() as u64 + 8;
        blob[8..16].copy_from_slice(&length.to_le_bytes());
        blob.extend(xxh3_64(&blob).to_le_bytes());
        blob
    }

    /// Replaces everything by what a snapshot remembers, without producers that have expired by
    /// `now_s`. To a state backend all of it counts as changed.
    ///
    /// `StoreCorrupt` for a blob that is empty, truncated or damaged, otherwise errors as
    /// [`Self::restore_entries`]; then nothing has changed.
    pub fn restore(&mut self, snapshot: &[u8], now_s: f64) -> Result<()> {
        let entries = read(snapshot)?;
        let mut producers = self.read_entries(entries, now_s, false)?;
        producers.mark_replacing(&self.producers);
        self.producers = producers;
        self.state = prepared::StateId::next();
        Ok(())
    }
}

/// The entries of a blob that is whole.
fn read(blob: &[u8]) -> Result<Vec<(i64, &[u8])>> {
    if blob.is_empty() {
        return Err(damaged("it is empty"));
    }
    let Some((magic, rest)) = blob.split_first_chunk::<8>() else {
        return Err(damaged("it is truncated"));
    };
    if magic != MAGIC {
        return Err(damaged("it does not begin like a deduplicator's snapshot"));
    }
    let Some((length, rest)) = split_u64(rest) else { return Err(damaged("it is truncated")) };
    if length != blob.len() as u64 {
        let text = format!("it has {} bytes of {length}", blob.len());
        return Err(damaged(&text));
    }
    let Some((sum_bytes, checksum)) = blob.split_last_chunk::<8>() else {
        return Err(damaged("it is truncated"));
    };
    if xxh3_64(sum_bytes) != u64::from_le_bytes(*checksum) {
        return Err(damaged("its checksum is wrong"));
    }
    // From here on only a writer's fault can surprise, but a blob is never trusted.
    let rest = rest.strip_suffix(checksum).unwrap_or(rest);
    let Some((producers, mut rest)) = split_u64(rest) else {
        return Err(damaged("it is truncated"));
    };
    let mut entries = Vec::new();
    while !rest.is_empty() {
        let Some((producer_id, after_id)) = split_u64(rest) else {
            return Err(damaged("an entry is truncated"));
        };
        let Some((length, after_length)) = after_id.split_first_chunk::<4>() else {
            return Err(damaged("an entry is truncated"));
        };
        let length = u32::from_le_bytes(*length) as usize;
        let Some((entry, after_entry)) = after_length.split_at_checked(length) else {
            return Err(damaged("an entry is truncated"));
        };
        entries.push((producer_id as i64, entry));
        rest = after_entry;
    }
    if entries.len() as u64 != producers {
        let text = format!("it holds {} producers of {producers}", entries.len());
        return Err(damaged(&text));
    }
    Ok(entries)
}

fn split_u64(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (word, rest) = bytes.split_first_chunk::<8>()?;
    Some((u64::from_le_bytes(*word), rest))
}

fn damaged(how: &str) -> Error {
    let text = format!(
        "the snapshot of the deduplicator cannot be used: {how}. Nothing was restored; restore an \
         older snapshot together with its input positions"
    );
    Error::new(ErrorKind::StoreCorrupt, text)
}
