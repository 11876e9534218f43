//! Barrier alignment over several input channels.
