//! The checksum of what lies before a position in a file.

use pyo3::prelude::*;

/// From so many bytes on it is worth letting other threads run meanwhile.
const DETACH_BYTES: usize = 1 << 16;

/// CRC-32 as ``zlib.crc32`` has it, several times faster.
///
/// Args:
///     data: What follows.
///     value: Of what lies before.
#[pyfunction]
#[pyo3(name = "_crc32", signature = (data, value = 0))]
pub(crate) fn py_crc32(py: Python<'_>, data: &[u8], value: u32) -> u32 {
    let work = || {
        let mut hasher = crc32fast::Hasher::new_with_initial(value);
        hasher.update(data);
        hasher.finalize()
    };
    if data.len() < DETACH_BYTES { work() } else { py.detach(work) }
}
