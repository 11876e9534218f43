//! The only file that knows heed, and the only one with `unsafe`.
