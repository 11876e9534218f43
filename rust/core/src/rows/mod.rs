//! Typed columns, keys and schemas, and how one row lies in memory: values without behaviour, which
//! tables, chunks and records share.

pub(crate) mod layout;
mod schema;
pub(crate) mod slab;
mod tuple;
mod values;

pub use schema::{ColumnType, KeyType, MAX_COLUMNS, MAX_KEY_ELEMENTS, Schema};
pub use tuple::KeyPart;
pub(crate) use tuple::check as check_tuple;
pub use values::{
    Bytes, Column, ColumnData, Keys, KeysBuf, Op, Operand, Rows, Scalar, Update, hashes,
};
