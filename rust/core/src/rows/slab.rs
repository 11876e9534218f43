//! Byte strings that do not fit into a row: keys longer than 12 bytes, cells of bytes columns.

use crate::{Error, ErrorKind, Result};

/// What the allocator and the entry take besides the bytes.
pub(crate) const ENTRY_BYTES: usize = 32;

/// Byte strings by handle.
#[derive(Debug, Default)]
pub(crate) struct Slab {
    entries: Vec<Box<[u8]>>,
    free: Vec<u32>,
    /// Lengths of all entries and `ENTRY_BYTES` each.
    bytes: usize,
}

impl Slab {
    /// Errors when `more` entries would not have handles.
    pub(crate) fn check_room(&self, more: usize) -> Result<()> {
        let needed = self.entries.len().saturating_sub(self.free.len()).saturating_add(more);
        if needed < u32::MAX as usize {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::CapacityExceeded,
            format!(
                "{needed} byte strings in one table, and it has {} handles; use several tables",
                u32::MAX
            ),
        )
        .with_bound(None, needed as u64, u64::from(u32::MAX)))
    }

    pub(crate) fn insert(&mut self, bytes: &[u8]) -> u32 {
        self.bytes += bytes.len() + ENTRY_BYTES;
        match self.free.pop() {
            Some(handle) => {
                self.entries[handle as usize] = bytes.into();
                handle
            }
            None => {
                self.entries.push(bytes.into());
                (self.entries.len() - 1) as u32
            }
        }
    }

    #[inline]
    pub(crate) fn get(&self, handle: u32) -> &[u8] {
        &self.entries[handle as usize]
    }

    pub(crate) fn replace(&mut self, handle: u32, bytes: &[u8]) {
        let entry = &mut self.entries[handle as usize];
        if entry.len() == bytes.len() {
            entry.copy_from_slice(bytes);
        } else {
            self.bytes = self.bytes + bytes.len() - entry.len();
            *entry = bytes.into();
        }
    }

    pub(crate) fn remove(&mut self, handle: u32) {
        let entry = std::mem::take(&mut self.entries[handle as usize]);
        self.bytes -= entry.len() + ENTRY_BYTES;
        self.free.push(handle);
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.bytes + self.free.capacity() * 4
    }
}
