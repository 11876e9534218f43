//! The manifest beside the data file, checked before anything is mapped.
