//! Keys and records in the store; the file format is drawn here.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::snapshot::Chain;
use crate::state::Schema;

/// Where a chunk lies: table, checkpoint (the last one it covers), number within it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub struct ChunkKey {
    pub table: u32,
    pub checkpoint: u64,
    pub sequence: u32,
}

/// One table at a checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct TableManifest {
    pub id: u32,
    pub name: String,
    pub schema: Schema,
    pub rows: u64,
    pub chain: Chain,
    /// Where the rotation of bases stands: next key group, rows of credit.
    pub next_base_group: u16,
    pub base_credit_rows: u64,
}

/// The decision record: the one thing whose presence makes a checkpoint complete.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct CheckpointRecord {
    pub id: u64,
    pub job_epoch: u64,
    /// Changes when a job resumes on purpose from something else than its newest checkpoint.
    pub lineage: u64,
    pub created_unix_ms: u64,
    /// A savepoint's name; savepoints are never collected.
    pub savepoint: Option<String>,
    pub tables: Vec<TableManifest>,
    /// Source positions, operators' own bytes, codec names: anything small, by name.
    #[serde(with = "serde_bytes_map")]
    pub blobs: BTreeMap<String, Vec<u8>>,
    /// What each sink prepared, by sink id: applied after the decision, idempotently.
    #[serde(with = "serde_bytes_map")]
    pub staged: BTreeMap<String, Vec<u8>>,
}

/// Byte values of a map as msgpack `bin`, not as arrays of numbers.
mod serde_bytes_map {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serializer, ser::SerializeMap};

    struct Raw<'a>(&'a [u8]);
    impl serde::Serialize for Raw<'_> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.serialize_bytes(self.0)
        }
    }

    struct Buf(Vec<u8>);
    impl<'de> Deserialize<'de> for Buf {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct Visitor;
            impl serde::de::Visitor<'_> for Visitor {
                type Value = Buf;
                fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    formatter.write_str("bytes")
                }
                fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Buf, E> {
                    Ok(Buf(bytes.to_vec()))
                }
                fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Buf, E> {
                    Ok(Buf(bytes))
                }
            }
            deserializer.deserialize_byte_buf(Visitor)
        }
    }

    pub(super) fn serialize<S: Serializer>(
        map: &BTreeMap<String, Vec<u8>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let mut out = serializer.serialize_map(Some(map.len()))?;
        for (name, bytes) in map {
            out.serialize_entry(name, &Raw(bytes))?;
        }
        out.end()
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<String, Vec<u8>>, D::Error> {
        let map = BTreeMap::<String, Buf>::deserialize(deserializer)?;
        Ok(map.into_iter().map(|(name, bytes)| (name, bytes.0)).collect())
    }
}
