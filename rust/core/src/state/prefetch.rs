//! Asks for memory before it is needed, without waiting for it.
//!
//! One of the two files with `unsafe`: a prefetch is a hint that reads and writes nothing and cannot
//! fault, whatever the address.

#![allow(unsafe_code)]

/// Asks for the cache line of a word that is about to be changed. Does nothing where no such
/// instruction is known.
#[inline(always)]
pub(crate) fn prefetch(words: &[u64], at: usize) {
    let address = words.as_ptr().wrapping_add(at);
    #[cfg(target_arch = "x86_64")]
    // SAFETY: see the module.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(address.cast());
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: see the module.
    unsafe {
        std::arch::asm!("prfm pstl1keep, [{0}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = address;
}
