//! Zeroed memory for slots: huge pages for big tables, so that a random access costs one cache
//! miss and not a page-table walk as well.

use memmap2::{Advice, MmapMut};

use crate::{Error, ErrorKind, Result};

/// From this size on memory is mapped: that of one huge page.
const MAP_FROM_BYTES: usize = 2 << 20;

/// A fixed number of u64 words, zero at first.
pub(crate) enum Words {
    Heap(Vec<u64>),
    Mapped(MmapMut),
}

impl Words {
    pub(crate) fn zeroed(words: usize) -> Result<Self> {
        let bytes = words.checked_mul(8).ok_or_else(|| refused(words, "more than can be named"))?;
        if bytes < MAP_FROM_BYTES {
            return Ok(Self::Heap(vec![0; words]));
        }
        let map = MmapMut::map_anon(bytes).map_err(|error| refused(words, &error.to_string()))?;
        // Only advice: without huge pages the table works as well, just slower.
        #[cfg(target_os = "linux")]
        let _ = map.advise(Advice::HugePage);
        Ok(Self::Mapped(map))
    }

    #[inline]
    pub(crate) fn as_slice(&self) -> &[u64] {
        match self {
            Self::Heap(words) => words,
            Self::Mapped(map) => bytemuck::cast_slice(map),
        }
    }

    #[inline]
    pub(crate) fn as_mut_slice(&mut self) -> &mut [u64] {
        match self {
            Self::Heap(words) => words,
            Self::Mapped(map) => bytemuck::cast_slice_mut(map),
        }
    }
}

fn refused(words: usize, why: &str) -> Error {
    Error::new(
        ErrorKind::CapacityExceeded,
        format!(
            "the system gave no memory for a table of {words} words of 8 bytes ({why}); lower the \
             number of keys in this process or give it more memory"
        ),
    )
}
