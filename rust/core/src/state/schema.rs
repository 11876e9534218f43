//! A table's schema: one key, and columns of fixed width or bytes.

use serde::{Deserialize, Serialize};

/// The type of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyType {
    /// Signed 64-bit integer.
    I64,
    /// Unsigned 64-bit integer.
    U64,
    /// Byte string.
    Bytes,
    /// UTF-8 string; stored as its bytes.
    Str,
    /// Tuple of the types above (no nesting).
    Tuple(Vec<KeyType>),
}

/// The type of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ColumnType {
    /// Signed 64-bit integer.
    I64,
    /// Unsigned 64-bit integer.
    U64,
    /// 64-bit float, never NaN.
    F64,
    /// 32-bit float, never NaN.
    F32,
    /// Unsigned 32-bit integer.
    U32,
    /// Boolean.
    Bool,
    /// Byte string of any length.
    Bytes,
}

/// Key and columns of a table. Two schemas are the same if names, types and order agree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schema {
    /// Type of the key.
    pub key: KeyType,
    /// Name and type of each column, at most 30.
    pub columns: Vec<(String, ColumnType)>,
}
