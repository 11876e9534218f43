//! The coordinator of checkpoints and the ledger of sinks, as pure state machines.
