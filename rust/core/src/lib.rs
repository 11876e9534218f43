//! The mechanism of onceflow: no Python, no network, no wall clock.
//!
//! - [`rows`]: typed columns, keys, schemas and the layout of a row: values without behaviour.
//! - [`state`]: keyed tables in memory, frozen in O(1) and captured in slices.
//! - [`snapshot`]: the bytes of a checkpoint: base and delta chunks, and the chain that they form.
//! - [`store`]: LMDB as a power-safe home for chunks and decision records.
//! - [`backend`]: tables, chain and store joined; the writer of a checkpoint; recovery.
//! - [`sequence`]: producers' sequences: verdicts on batches, so that a retry counts once.
//! - [`align`]: barriers over several input channels.
//! - [`log`]: topics, transactional producers and committed reads over one shared LMDB file.
//! - [`wakeup`]: one thread waits for several things at once.
//! - [`checkpoint`]: coordinator and sink ledger, the protocol between tasks, store and sinks.
//!
//! The protocol parts ([`sequence`], [`align`], [`checkpoint`]) are pure state machines: time
//! and identity come in as arguments, effects go out as values.

pub mod align;
pub mod backend;
pub mod checkpoint;
pub mod crash;
pub(crate) mod environment;
mod error;
pub mod hash;
pub mod log;
pub mod random;
pub mod rows;
pub mod sequence;
pub mod snapshot;
pub mod state;
pub mod store;
pub mod wakeup;

pub use error::{Detail, Error, ErrorKind, Result};
