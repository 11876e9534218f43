//! A table's schema: one key, and columns of fixed width or bytes.

use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, Result};

/// Most columns that a table can have: a row's header has a bit for each.
pub const MAX_COLUMNS: usize = 30;

/// Most elements of a tuple key.
pub const MAX_KEY_ELEMENTS: usize = 16;

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

impl KeyType {
    fn is_integer(&self) -> bool {
        matches!(self, Self::I64 | Self::U64)
    }

    /// Number of words if keys of this type travel as words: 1 for an integer.
    pub(crate) fn words(&self) -> Option<usize> {
        match self {
            Self::I64 | Self::U64 => Some(1),
            Self::Bytes | Self::Str => None,
            Self::Tuple(elements) => {
                elements.iter().all(Self::is_integer).then_some(elements.len())
            }
        }
    }

    /// True if the key is an i64 or its first element is.
    pub(crate) fn starts_with_i64(&self) -> bool {
        match self {
            Self::I64 => true,
            Self::Tuple(elements) => elements.first() == Some(&Self::I64),
            _ => false,
        }
    }

    /// As in Python: `i64`, `(i64, str)`.
    pub fn name(&self) -> String {
        match self {
            Self::I64 => "i64".into(),
            Self::U64 => "u64".into(),
            Self::Bytes => "bytes".into(),
            Self::Str => "str".into(),
            Self::Tuple(elements) => {
                let names: Vec<String> = elements.iter().map(Self::name).collect();
                format!("({})", names.join(", "))
            }
        }
    }
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
    /// Byte string of any length that a chunk can hold (about 1 GiB for all of a row).
    Bytes,
}

impl ColumnType {
    /// As in Python.
    pub fn name(self) -> &'static str {
        match self {
            Self::I64 => "i64",
            Self::U64 => "u64",
            Self::F64 => "f64",
            Self::F32 => "f32",
            Self::U32 => "u32",
            Self::Bool => "bool",
            Self::Bytes => "bytes",
        }
    }
}

/// Key and columns of a table. Two schemas are the same if names, types and order agree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schema {
    /// Type of the key.
    pub key: KeyType,
    /// Name and type of each column, at most 30.
    pub columns: Vec<(String, ColumnType)>,
}

impl std::fmt::Display for Schema {
    /// As in Python: `key=i64, columns={n: i64}`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "key={}, columns={{", self.key.name())?;
        for (index, (name, column)) in self.columns.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{name}: {}", column.name())?;
        }
        write!(f, "}}")
    }
}

impl Schema {
    /// Errors with `InvalidArgument` if no table can have this schema.
    pub fn validate(&self) -> Result<()> {
        if let KeyType::Tuple(elements) = &self.key {
            if elements.is_empty() || elements.len() > MAX_KEY_ELEMENTS {
                return Err(invalid(format!(
                    "a tuple key has {} elements; it must have 1 to {MAX_KEY_ELEMENTS}",
                    elements.len()
                )));
            }
            if elements.iter().any(|element| matches!(element, KeyType::Tuple(_))) {
                return Err(invalid(format!(
                    "the key type {} has a tuple inside a tuple; flatten it",
                    self.key.name()
                )));
            }
        }
        if self.columns.len() > MAX_COLUMNS {
            return Err(invalid(format!(
                "{} columns, and a table holds at most {MAX_COLUMNS}; split it into two tables",
                self.columns.len()
            )));
        }
        for (index, (name, _)) in self.columns.iter().enumerate() {
            if name.is_empty() {
                return Err(invalid(format!("column {index} has an empty name")));
            }
            if self.columns[..index].iter().any(|(other, _)| other == name) {
                return Err(invalid(format!("two columns have the name {name:?}")));
            }
        }
        Ok(())
    }

    /// XXH3-64 of key type, names and column types: in each chunk, so that it is not read as
    /// rows of another table.
    pub fn fingerprint(&self) -> u64 {
        let mut text = self.key.name();
        for (name, column) in &self.columns {
            text.push_str(&format!("|{}:{name}:{}", name.len(), column.name()));
        }
        xxhash_rust::xxh3::xxh3_64(text.as_bytes())
    }
}

fn invalid(text: String) -> Error {
    Error::new(ErrorKind::InvalidArgument, text)
}
