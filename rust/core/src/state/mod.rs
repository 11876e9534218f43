//! Keyed state: typed tables in memory, changed by whole batches.

mod schema;
mod table;
mod values;

pub use schema::{ColumnType, KeyType, Schema};
pub use table::Table;
pub use values::{Bytes, Column, ColumnData, Keys, KeysBuf, Op, Operand, Rows, Scalar, Update};
