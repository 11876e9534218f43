//! Keyed state: typed tables in memory, changed by whole batches.

#[allow(dead_code)]
mod bitmap;
#[allow(dead_code)]
pub(crate) mod layout;
#[allow(dead_code)]
mod memory;
mod schema;
#[allow(dead_code)]
mod slab;
mod table;
mod tuple;
mod values;

pub use schema::{ColumnType, KeyType, MAX_COLUMNS, MAX_KEY_ELEMENTS, Schema};
pub use table::Table;
pub use tuple::KeyPart;
pub use values::{Bytes, Column, ColumnData, Keys, KeysBuf, Op, Operand, Rows, Scalar, Update};
