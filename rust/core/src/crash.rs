//! A crash point is a named place in the code where a test can kill the process.
//!
//! Without the feature `crash-points` a point compiles to nothing. With it, the environment
//! variable `CRASH_AT=name:nth` makes the process send itself SIGKILL when it comes to the point
//! `name` for the `nth` time (from 1): no unwinding, no exit handlers, just as a power cut looks
//! to the files. The names are listed in `tests/crash_points.toml`; a test compares list and code.

/// Marks a place where a crash must be survivable; see the module `crash`.
#[macro_export]
macro_rules! crash_point {
    ($name:literal) => {
        #[cfg(feature = "crash-points")]
        $crate::crash::hit($name);
    };
}

/// Kills the process if `CRASH_AT` names this point and this is the nth time it is reached.
#[cfg(feature = "crash-points")]
pub fn hit(name: &str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static ARMED: OnceLock<Option<(String, u64)>> = OnceLock::new();
    static SEEN: AtomicU64 = AtomicU64::new(0);

    let armed = ARMED.get_or_init(|| {
        let spec = std::env::var("CRASH_AT").ok()?;
        match spec.rsplit_once(':') {
            Some((point, nth)) => Some((point.to_owned(), nth.parse().unwrap_or(1))),
            None => Some((spec, 1)),
        }
    });
    if let Some((point, nth)) = armed
        && point == name
        && SEEN.fetch_add(1, Ordering::Relaxed) + 1 == *nth
    {
        let _ =
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
}
