//! Lines of a block of a file.

use memchr::memchr;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

/// How many lines end in a block.
#[pyfunction]
#[pyo3(name = "_count_lines")]
pub(crate) fn py_count_lines(data: &[u8]) -> usize {
    memchr::memchr_iter(b'\n', data).count()
}

/// Up to so many lines of a block from a place in it on, without their ends, and the place behind them.
///
/// Args:
///     data: Whole lines.
///     start: Where the first one begins.
///     count: How many.
#[pyfunction]
#[pyo3(name = "_split_lines")]
pub(crate) fn py_split_lines<'py>(
    py: Python<'py>,
    data: &[u8],
    start: usize,
    count: usize,
) -> PyResult<(Bound<'py, PyList>, usize)> {
    let mut lines = Vec::with_capacity(count.min(data.len().saturating_sub(start)));
    let mut at = start;
    while lines.len() < count {
        let Some(rest) = data.get(at..) else { break };
        let Some(end) = memchr(b'\n', rest) else { break };
        lines.push(PyBytes::new(py, &rest[..end]));
        at += end + 1;
    }
    Ok((PyList::new(py, lines)?, at))
}
