//! A crash point is a named place in the code where a test can kill or pause the process.
//!
//! Without the feature `crash-points` a point compiles to nothing. With it, the environment
//! variable `CRASH_AT=name:nth` makes the process send itself SIGKILL when it comes to the point
//! `name` for the `nth` time (from 1): no unwinding, no exit handlers, just as a power cut looks
//! to the files. `STOP_AT=name:nth` sends SIGSTOP instead: a process that is paused there, for any
//! length of time, until somebody sends SIGCONT. The names are listed in `tests/crash_points.toml`;
//! a test compares list and code.

/// Marks a place where a crash must be survivable; see the module `crash`.
#[macro_export]
macro_rules! crash_point {
    ($name:literal) => {
        #[cfg(feature = "crash-points")]
        $crate::crash::hit($name);
    };
}

/// Kills or stops the process if the environment names this point and this is the nth time.
#[cfg(feature = "crash-points")]
pub fn hit(name: &str) {
    use std::sync::OnceLock;

    use rustix::process::{Signal, getpid, kill_process};

    static KILL: OnceLock<Option<Armed>> = OnceLock::new();
    static STOP: OnceLock<Option<Armed>> = OnceLock::new();

    for (armed, variable, signal) in
        [(&KILL, "CRASH_AT", Signal::KILL), (&STOP, "STOP_AT", Signal::STOP)]
    {
        let armed = armed.get_or_init(|| Armed::parse(&std::env::var(variable).ok()?));
        if armed.as_ref().is_some_and(|armed| armed.is_due(name)) {
            let _ = kill_process(getpid(), signal);
            // Another thread may take the signal; this one must not run on until it stops too.
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
    }
}

/// A point that was named, and how often it was reached.
#[cfg(feature = "crash-points")]
struct Armed {
    point: String,
    nth: u64,
    seen: std::sync::atomic::AtomicU64,
}

#[cfg(feature = "crash-points")]
impl Armed {
    /// `name:nth`, or a name alone for the first time; `None` if nth is no number from 1 on (a run
    /// that never reaches its point is a failure of the test that asked for it).
    fn parse(spec: &str) -> Option<Self> {
        let (point, nth) = match spec.rsplit_once(':') {
            Some((point, nth)) => (point, nth.parse().ok().filter(|nth| *nth > 0)?),
            None => (spec, 1),
        };
        Some(Self { point: point.to_owned(), nth, seen: 0.into() })
    }

    fn is_due(&self, name: &str) -> bool {
        self.point == name
            && self.seen.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1 == self.nth
    }
}

#[cfg(all(test, feature = "crash-points"))]
mod tests {
    use super::Armed;

    #[test]
    fn a_point_is_due_at_its_nth_time_only() {
        let armed = Armed::parse("decide.post:3").unwrap();
        let due: Vec<bool> = (0..5).map(|_| armed.is_due("decide.post")).collect();
        assert_eq!(due, [false, false, true, false, false]);
        assert!(Armed::parse("decide.post").unwrap().is_due("decide.post"));
        assert!(!Armed::parse("decide.post").unwrap().is_due("decide.pre_sync"));
        assert!(Armed::parse("decide.post:0").is_none());
        assert!(Armed::parse("decide.post:x").is_none());
    }
}
