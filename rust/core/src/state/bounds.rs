//! Upper bounds of what columns hold: most sums can be seen not to overflow without looking at
//! a single cell.

use super::{ColumnType, Op, Operand, Scalar, Schema};
use crate::rows::layout::{LIVE, Layout, set_bit};

/// By column: no cell's magnitude is above this; `None` if nothing is known.
pub(super) struct Bounds {
    columns: Vec<Option<Bound>>,
    /// Rows that were added one by one since the bounds were last measured.
    exact_rows: usize,
}

/// A magnitude.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Bound {
    Int(u128),
    Float(f64),
}

impl Bound {
    fn zero(column: ColumnType) -> Option<Self> {
        match column {
            ColumnType::I64 | ColumnType::U64 | ColumnType::U32 => Some(Self::Int(0)),
            ColumnType::F64 | ColumnType::F32 => Some(Self::Float(0.0)),
            ColumnType::Bool | ColumnType::Bytes => None,
        }
    }

    fn plus(self, more: Self) -> Self {
        match (self, more) {
            (Self::Int(bound), Self::Int(more)) => Self::Int(bound.saturating_add(more)),
            // Rounded up generously: the sum of the magnitudes was itself rounded.
            (Self::Float(bound), Self::Float(more)) => Self::Float((bound + more) * (1.0 + 1e-9)),
            (bound, _) => bound,
        }
    }

    fn max(self, other: Self) -> Self {
        match (self, other) {
            (Self::Int(bound), Self::Int(other)) => Self::Int(bound.max(other)),
            (Self::Float(bound), Self::Float(other)) => Self::Float(bound.max(other)),
            (bound, _) => bound,
        }
    }

    /// True if every value of at most this magnitude fits.
    fn fits(self, column: ColumnType) -> bool {
        match (self, column) {
            (Self::Int(bound), ColumnType::I64) => bound <= i64::MAX as u128,
            (Self::Int(bound), ColumnType::U64) => bound <= u128::from(u64::MAX),
            (Self::Int(bound), ColumnType::U32) => bound <= u128::from(u32::MAX),
            (Self::Float(bound), ColumnType::F64) => bound < f64::MAX / 2.0,
            (Self::Float(bound), ColumnType::F32) => bound < f64::from(f32::MAX) / 2.0,
            _ => true,
        }
    }
}

impl Bounds {
    pub(super) fn new(schema: &Schema) -> Self {
        let columns = schema.columns.iter().map(|(_, column)| Bound::zero(*column)).collect();
        Self { columns, exact_rows: 0 }
    }

    /// Nothing is known any more: rows came by another way than updates.
    pub(super) fn forget(&mut self) {
        self.columns.fill(None);
    }

    /// What the column's bound is after this update; `None` if that does not show that the update
    /// cannot overflow.
    pub(super) fn after(
        &self,
        layout: &Layout,
        column: usize,
        op: Op,
        operand: &Operand<'_>,
        rows: usize,
    ) -> Option<Bound> {
        let bound = self.columns[column]?;
        let after = match op {
            Op::Add => bound.plus(total(operand, rows)?),
            _ => bound.max(largest(operand)?),
        };
        (op != Op::Add || after.fits(layout.column(column))).then_some(after)
    }

    pub(super) fn set(&mut self, column: usize, bound: Option<Bound>) {
        self.columns[column] = bound;
    }

    /// True if measuring the column is worth it: its bound is unknown, or as many rows were
    /// added one by one as the table has.
    pub(super) fn worth_measuring(&mut self, column: usize, rows: usize, live: usize) -> bool {
        if self.columns[column].is_none() {
            return true;
        }
        self.exact_rows = self.exact_rows.saturating_add(rows);
        if self.exact_rows < live {
            return false;
        }
        self.exact_rows = 0;
        true
    }

    /// Looks at every cell of a column.
    pub(super) fn measure(&mut self, layout: &Layout, words: &[u64], column: usize) {
        let (cell, bit) = (layout.cells + column, set_bit(column));
        let cells = words
            .chunks_exact(layout.stride)
            .filter(|row| row[0] & LIVE != 0 && row[0] & bit != 0)
            .map(|row| row[cell]);
        self.columns[column] = match layout.column(column) {
            ColumnType::I64 => Some(Bound::Int(
                cells.map(|cell| u128::from((cell as i64).unsigned_abs())).max().unwrap_or(0),
            )),
            ColumnType::U64 | ColumnType::U32 => {
                Some(Bound::Int(cells.map(u128::from).max().unwrap_or(0)))
            }
            ColumnType::F64 => {
                Some(Bound::Float(cells.map(|cell| f64::from_bits(cell).abs()).fold(0.0, f64::max)))
            }
            ColumnType::F32 => Some(Bound::Float(
                cells.map(|cell| f64::from(f32::from_bits(cell as u32)).abs()).fold(0.0, f64::max),
            )),
            ColumnType::Bool | ColumnType::Bytes => None,
        };
    }
}

/// The sum of the magnitudes of a batch.
fn total(operand: &Operand<'_>, rows: usize) -> Option<Bound> {
    fn ints(magnitudes: impl Iterator<Item = u64> + Clone) -> Bound {
        Bound::Int(magnitudes.map(u128::from).sum())
    }
    Some(match operand {
        Operand::I64(values) => {
            // Magnitudes below 2^40 of up to 2^23 values: their sum fits, and the loop vectorises.
            let any = values.iter().fold(0, |any, value| any | value.unsigned_abs());
            if any < 1 << 40 && values.len() < 1 << 23 {
                Bound::Int(u128::from(values.iter().map(|value| value.unsigned_abs()).sum::<u64>()))
            } else {
                ints(values.iter().map(|value| value.unsigned_abs()))
            }
        }
        Operand::U64(values) => ints(values.iter().copied()),
        Operand::U32(values) => ints(values.iter().map(|value| u64::from(*value))),
        Operand::F64(values) => Bound::Float(sum_of_magnitudes(values)),
        Operand::F32(values) => {
            Bound::Float(values.iter().map(|value| f64::from(value.abs())).sum())
        }
        Operand::Scalar(scalar) => match magnitude(scalar)? {
            Bound::Int(value) => Bound::Int(value.saturating_mul(rows as u128)),
            Bound::Float(value) => Bound::Float(value * rows as f64),
        },
        Operand::Bool(_) | Operand::Bytes(_) => return None,
    })
}

/// In eight lanes, since floating-point additions cannot be reordered by the compiler.
fn sum_of_magnitudes(values: &[f64]) -> f64 {
    let mut lanes = [0.0; 8];
    let chunks = values.chunks_exact(8);
    let rest: f64 = chunks.remainder().iter().map(|value| value.abs()).sum();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += value.abs();
        }
    }
    lanes.iter().sum::<f64>() + rest
}

/// The largest magnitude of a batch.
fn largest(operand: &Operand<'_>) -> Option<Bound> {
    Some(match operand {
        Operand::I64(values) => Bound::Int(u128::from(
            values.iter().map(|value| value.unsigned_abs()).max().unwrap_or(0),
        )),
        Operand::U64(values) => Bound::Int(u128::from(values.iter().copied().max().unwrap_or(0))),
        Operand::U32(values) => Bound::Int(u128::from(values.iter().copied().max().unwrap_or(0))),
        Operand::F64(values) => {
            Bound::Float(values.iter().map(|value| value.abs()).fold(0.0, f64::max))
        }
        Operand::F32(values) => {
            Bound::Float(values.iter().map(|value| f64::from(value.abs())).fold(0.0, f64::max))
        }
        Operand::Scalar(scalar) => magnitude(scalar)?,
        Operand::Bool(_) | Operand::Bytes(_) => return None,
    })
}

fn magnitude(scalar: &Scalar<'_>) -> Option<Bound> {
    Some(match scalar {
        Scalar::I64(value) => Bound::Int(u128::from(value.unsigned_abs())),
        Scalar::U64(value) => Bound::Int(u128::from(*value)),
        Scalar::U32(value) => Bound::Int(u128::from(*value)),
        Scalar::F64(value) => Bound::Float(value.abs()),
        Scalar::F32(value) => Bound::Float(f64::from(value.abs())),
        Scalar::Bool(_) | Scalar::Bytes(_) => return None,
    })
}
