//! A crash point is a named place in the code where a test can kill, stop or hold the process.
//!
//! Without the feature `crash-points` a point compiles to nothing. With it, the environment says
//! what happens there; each variable but the last two names points as `name:nth`, several with
//! commas, and a name alone means the first time:
//!
//! | variable | when the process comes to the point for the nth time |
//! |---|---|
//! | `CRASH_AT` | it sends itself SIGKILL: no unwinding, no exit handlers, as a power cut looks to the files |
//! | `STOP_AT` | it sends itself SIGSTOP: paused for any length of time, until somebody sends SIGCONT |
//! | `HOLD_AT` | this thread makes the file `NAME.held` in the directory `HOLD_IN` and waits for `NAME.go`; others run on |
//! | `TRACE_POINTS` | each point that is passed is appended to this file, a line a point |
//!
//! A forked process reads its environment anew and counts from the start. The names are listed in
//! `tests/crash_points.toml`; a test compares list and code.

/// Marks a place where a crash must be survivable; see the module `crash`.
#[macro_export]
macro_rules! crash_point {
    ($name:literal) => {
        #[cfg(feature = "crash-points")]
        $crate::crash::hit($name);
    };
}

#[cfg(feature = "crash-points")]
pub use armed::hit;

#[cfg(feature = "crash-points")]
mod armed {
    use std::fs::OpenOptions;
    use std::io::Write as _;
    use std::path::{Path, PathBuf};
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use rustix::process::{Pid, Signal, getpid, kill_process};

    /// A process and its ancestors that came to a point: each has a slot of its own. No lock could
    /// do this: one that another thread holds while a process forks stays locked in the child.
    const GENERATIONS: usize = 8;

    /// Does what the environment asks for at this point.
    pub fn hit(name: &str) {
        static ARMED: [OnceLock<Armed>; GENERATIONS] = [const { OnceLock::new() }; GENERATIONS];
        let pid = getpid();
        let mut slots = ARMED.iter().map(|slot| slot.get_or_init(|| Armed::new(pid)));
        let armed = slots.find(|armed| armed.pid == pid);
        armed.expect("crash points are for fewer generations of forked processes").pass(name);
    }

    /// What the environment of a process asks for.
    struct Armed {
        pid: Pid,
        kill: Vec<Point>,
        stop: Vec<Point>,
        hold: Vec<Point>,
        hold_in: Option<PathBuf>,
        trace: Option<PathBuf>,
    }

    impl Armed {
        fn new(pid: Pid) -> Self {
            let points = |variable| std::env::var(variable).map_or(Vec::new(), |it| points(&it));
            let path = |variable| std::env::var_os(variable).map(PathBuf::from);
            Self {
                pid,
                kill: points("CRASH_AT"),
                stop: points("STOP_AT"),
                hold: points("HOLD_AT"),
                hold_in: path("HOLD_IN"),
                trace: path("TRACE_POINTS"),
            }
        }

        fn pass(&self, name: &str) {
            if let Some(path) = &self.trace {
                let file = OpenOptions::new().append(true).create(true).open(path);
                let _ = file.and_then(|mut file| file.write_all(format!("{name}\n").as_bytes()));
            }
            for (points, signal) in [(&self.kill, Signal::KILL), (&self.stop, Signal::STOP)] {
                if is_due(points, name) {
                    let _ = kill_process(self.pid, signal);
                    // Another thread may take the signal; this one must not run on until it stops too.
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
            if let Some(directory) = self.hold_in.as_deref().filter(|_| is_due(&self.hold, name)) {
                hold(directory, name);
            }
        }
    }

    fn hold(directory: &Path, name: &str) {
        let _ = std::fs::write(directory.join(format!("{name}.held")), "");
        while !directory.join(format!("{name}.go")).exists() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// A point that was named, and how often it was passed.
    struct Point {
        name: String,
        nth: u64,
        seen: AtomicU64,
    }

    /// What is not a point with an nth from 1 on is no point (a run that never reaches its point
    /// is a failure of the test that asked for it).
    fn points(spec: &str) -> Vec<Point> {
        let parse = |point: &str| {
            let (name, nth) = match point.rsplit_once(':') {
                Some((name, nth)) => (name, nth.parse().ok().filter(|nth| *nth > 0)?),
                None => (point, 1),
            };
            Some(Point { name: name.to_owned(), nth, seen: 0.into() })
        };
        spec.split(',').filter_map(parse).collect()
    }

    /// Counts for each of them, so no short cuts.
    fn is_due(points: &[Point], name: &str) -> bool {
        let due = |point: &&Point| {
            point.name == name && point.seen.fetch_add(1, Ordering::Relaxed) + 1 == point.nth
        };
        points.iter().filter(due).count() > 0
    }

    #[cfg(test)]
    mod tests {
        use super::{is_due, points};

        #[test]
        fn a_point_is_due_at_its_nth_time_only() {
            let armed = points("decide.post:3");
            let due: Vec<bool> = (0..5).map(|_| is_due(&armed, "decide.post")).collect();
            assert_eq!(due, [false, false, true, false, false]);
            assert!(is_due(&points("decide.post"), "decide.post"));
            assert!(!is_due(&points("decide.post"), "decide.pre_sync"));
            assert!(points("decide.post:0").is_empty());
            assert!(points("decide.post:x").is_empty());
        }

        #[test]
        fn several_points_and_times_may_be_named() {
            let armed = points("a,b:2,a:3");
            let due: Vec<bool> = ["a", "b", "a", "b", "a"].map(|name| is_due(&armed, name)).into();
            assert_eq!(due, [true, false, false, true, true]);
        }
    }
}
