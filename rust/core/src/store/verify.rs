//! Reading everything once: every record, every chunk.

use std::path::Path;

use super::Damage;
use crate::Result;

/// What a verification found.
#[derive(Debug, Clone, Default)]
#[allow(missing_docs)]
pub struct VerifyReport {
    pub checkpoints: Vec<u64>,
    pub chunks: u64,
    pub bytes: u64,
    pub damage: Vec<Damage>,
}

/// Verifies in this process: damage may kill it by signal, so callers run it in a child.
#[allow(unused_variables)]
pub fn verify(directory: &Path) -> Result<VerifyReport> { todo!() }
