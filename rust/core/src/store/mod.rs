//! The durable home of chunks and decision records.
//!
//! Two stores by what they promise: a [`ChunkStore`] takes immutable bytes from many writers, a
//! [`RecordStore`] takes decisions from one owner, and a decision is the one commit point. The local
//! [`Store`] is both, in one LMDB environment, so that a record and its chunks are one transaction.
//!
//! One process owns a directory and writes; others may read. What is promised:
//!
//! - A commit is one LMDB transaction, synced before it is acknowledged: after a crash at any
//!   instruction its record and all its chunks are there, or none.
//! - Opening raises the job epoch durably. Every later write of an older owner finds the newer
//!   epoch inside its own transaction and is `Fenced`, however long it was paused.
//! - Damage is a typed error or a `Damage`, never a signal and never a wrong value: the manifest is
//!   checked before anything is mapped, the pages before LMDB follows them, each value's checksum
//!   when it is read.
//! - After a failed sync nothing is written until the store is opened again (`StorePoisoned`).
//!
//! Not promised: that a store survives being copied while it runs (use [`Store::backup`]), a disk
//! that lies about syncs, use over a network file system (refused where it can be seen).

mod chunks;
mod layout;
mod local;
mod owner;
mod records;
mod values;
mod verify;

pub use crate::environment::StoreSize;
pub use chunks::{ChunkKey, ChunkStore};
pub use local::{Snapshot, Store, StoreOptions};
pub use owner::{StoreSettings, settings};
pub(crate) use records::is_worth_keeping;
pub use records::{CheckpointRecord, Commit, CommitStats, Damage, RecordStore, TableManifest};
pub use verify::{VerifyReport, verify};
