//! Producer sequences: verdicts on batches, so that a retry counts once.
