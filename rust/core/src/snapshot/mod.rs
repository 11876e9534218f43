//! The bytes of a checkpoint: captured rows become base and delta chunks; chunks form a chain.

mod capture;
mod chain;
mod chunk;

pub use capture::Capture;
pub use chain::{Chain, ChunkRef};
pub use chunk::{ChunkKind, EncodedChunk, merge};
