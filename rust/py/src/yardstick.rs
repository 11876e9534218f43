//! What the benchmarks compare a table with: the least that a keyed update can cost.

use numpy::{PyReadonlyArray1, PyReadwriteArray1};
use pyo3::exceptions::{PyIndexError, PyValueError};
use pyo3::prelude::*;

/// The yardstick of the benchmarks, of no other use: sum and count in an array indexed by the key.
///
/// What any keyed update does at least, without hashing, a growing table, dirty tracking or
/// checks for overflow: a random read, a change and a write. Contiguous arrays.
///
/// Args:
///     keys: Numbers of cells.
///     values: One a key.
///     cells: Two words a cell: the bits of the sum (float64), and the count.
///
/// Raises:
///     IndexError: No such cell. Those before it are updated.
///     ValueError: Lengths that do not match.
#[pyfunction]
#[pyo3(name = "_bare_update_loop")]
pub(crate) fn bare_update_loop(
    py: Python<'_>,
    keys: PyReadonlyArray1<'_, i64>,
    values: PyReadonlyArray1<'_, f64>,
    mut cells: PyReadwriteArray1<'_, u64>,
) -> PyResult<()> {
    let (keys, values) = (keys.as_slice()?, values.as_slice()?);
    let (cells, rest) = cells.as_slice_mut()?.as_chunks_mut::<2>();
    if keys.len() != values.len() || !rest.is_empty() {
        let text = "one value a key and two words a cell, please";
        return Err(PyValueError::new_err(text));
    }
    let outside = py.detach(|| {
        for (key, value) in keys.iter().zip(values) {
            // A negative key becomes one that is too large.
            let Some([sum, count]) = cells.get_mut(*key as usize) else {
                return Some(*key);
            };
            *sum = (f64::from_bits(*sum) + value).to_bits();
            *count += 1;
        }
        None
    });
    match outside {
        None => Ok(()),
        Some(key) => Err(PyIndexError::new_err(format!("there is no cell for key {key}"))),
    }
}
