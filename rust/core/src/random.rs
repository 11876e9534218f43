//! Identities that nobody else has.

use rustix::rand::{GetRandomFlags, getrandom};

/// Random bits of the operating system, for an identity.
///
/// Not of a generator in this process: a process that is forked off would go on with the same
/// numbers, and so would its siblings.
pub fn random_id() -> u128 {
    let mut bytes = [0; 16];
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        // Interrupted by a signal, it is asked again; nothing else can go wrong with so few bytes.
        filled += getrandom(rest, GetRandomFlags::empty()).unwrap_or(0);
    }
    u128::from_ne_bytes(bytes)
}
