//! The owner lock: one process writes.
