//! Keyed state: typed tables in memory, changed by whole batches.

mod bitmap;
mod bounds;
pub(crate) mod freeze;
mod gather;
pub(crate) mod layout;
mod memory;
mod order;
mod prefetch;
mod probe;
mod schema;
mod slab;
mod table;
mod tuple;
mod update;
mod values;

pub use schema::{ColumnType, KeyType, MAX_COLUMNS, MAX_KEY_ELEMENTS, Schema};
pub use table::Table;
pub use tuple::KeyPart;
pub(crate) use tuple::check as check_tuple;
pub use values::{Bytes, Column, ColumnData, Keys, KeysBuf, Op, Operand, Rows, Scalar, Update};
