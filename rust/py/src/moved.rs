//! Records of a batch that a function has put in each other's places.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};

use pyo3::prelude::*;
use pyo3::types::PyList;

use crate::copies::is_fixed;

/// Whether one of the results is a record of another place, by its identity.
///
/// Values that cannot be changed are passed over: equal numbers and texts may be one object.
#[pyfunction]
#[pyo3(name = "_any_moved")]
pub(crate) fn py_any_moved(
    records: &Bound<'_, PyList>,
    results: &Bound<'_, PyList>,
) -> PyResult<bool> {
    let mut replaced = HashSet::<usize, BuildHasherDefault<Spread>>::default();
    for (record, result) in records.iter().zip(results) {
        if !record.is(&result) && !is_fixed(&record)? {
            replaced.insert(record.as_ptr() as usize);
        }
    }
    if replaced.is_empty() {
        return Ok(false);
    }
    let is_moved = |(record, result): (Bound<'_, PyAny>, Bound<'_, PyAny>)| {
        !record.is(&result) && replaced.contains(&(result.as_ptr() as usize))
    };
    Ok(records.iter().zip(results).any(is_moved))
}

/// Addresses differ in their middle; a hash table looks at both ends.
#[derive(Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_usize(usize::from(*byte));
        }
    }

    fn write_usize(&mut self, address: usize) {
        let product = u128::from(self.0 ^ address as u64) * 0x9E37_79B9_7F4A_7C15;
        self.0 = (product >> 64) as u64 ^ product as u64;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
