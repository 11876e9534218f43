//! Arithmetic of sequences: serial numbers of 31 bits, 0 after `i32::MAX`.

/// Sequences that a batch or a window may span. Half of all: so that earlier and later can be
/// told apart.
pub const MAX_SPAN: u32 = 1 << 30;

const MASK: u32 = i32::MAX as u32;

/// `sequence` moved on by `count`.
pub(super) fn add(sequence: i32, count: u32) -> i32 {
    ((sequence as u32).wrapping_add(count) & MASK) as i32
}

/// Steps forward from one sequence to another: 0 to `i32::MAX`.
pub(super) fn distance(from: i32, to: i32) -> u32 {
    (to as u32).wrapping_sub(from as u32) & MASK
}

/// Sequences from `first` to `last`, both included: 1 to 2^31.
pub(super) fn count(first: i32, last: i32) -> u32 {
    distance(first, last) + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_follows_the_largest_sequence() {
        assert_eq!(add(i32::MAX, 1), 0);
        assert_eq!(add(i32::MAX - 10, 20), 9);
        assert_eq!(add(0, MASK), i32::MAX);
        assert_eq!(distance(i32::MAX, 0), 1);
        assert_eq!(distance(0, i32::MAX), MASK);
        assert_eq!(count(i32::MAX - 10, 9), 21);
        assert_eq!(count(7, 7), 1);
        assert_eq!(count(7, 6), 1 << 31);
    }
}
