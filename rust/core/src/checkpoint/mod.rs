//! The protocol between tasks, store and sinks, and what a restart makes of it.
//!
//! - [`CheckpointCoordinator`]: one checkpoint from its barriers to the sinks' commits.
//! - [`SinkLedger`]: which checkpoint each sink has prepared, decided, committed.
//! - [`recovery_plan`]: what an exact recovery must do with what the store and the sinks say.
//!
//! All three are pure: events and times in, effects out.

mod coordinator;
mod ledger;
mod recovery;

pub use coordinator::{CheckpointCoordinator, Effect, Event};
pub use ledger::{SinkLedger, SinkProgress};
pub use recovery::{RecoveryFacts, RecoveryPlan, recovery_plan};
