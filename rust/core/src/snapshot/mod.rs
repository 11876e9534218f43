//! The bytes of a checkpoint: captured rows become base and delta chunks; chunks form a chain.

mod capture;
mod chain;
mod chunk;
mod merge;

pub(crate) use capture::cell_bytes;
pub use capture::{Capture, EncodeBuffers};
pub use chain::{Chain, ChunkRef, Rotation};
pub use chunk::{ChunkKind, EncodedChunk};
pub(crate) use chunk::{ChunkReader, RowBlock};
pub use merge::{DeltaChunk, merge};
