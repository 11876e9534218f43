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
        // For writing: a line that a capture has just read on another core comes as its owner then,
        // and the change need not ask for it once more. Processors without it take it as no-op.
        std::arch::asm!("prefetchw [{0}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: see the module.
    unsafe {
        std::arch::asm!("prfm pstl1keep, [{0}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = address;
}
