//! Keyed state: typed tables in memory, changed by whole batches.

mod bitmap;
mod bounds;
mod freeze;
mod gather;
mod memory;
mod order;
mod prefetch;
mod probe;
mod table;
mod timers;
mod update;

pub use table::Table;

// What the calls of a table take and give.
pub use crate::rows::{
    Bytes, Column, ColumnData, ColumnType, KeyPart, KeyType, Keys, KeysBuf, MAX_COLUMNS,
    MAX_KEY_ELEMENTS, Op, Operand, Rows, Scalar, Schema, Update,
};
