//! The log's clock: what all durations are measured by, in every process alike.
//!
//! The wall clock may be set back or forward at any moment: a timeout that is measured by it
//! comes never, or at once. The machine's monotonic clock cannot be set, and is the same in all
//! processes, but begins anew with each boot. So the log has a clock of its own: milliseconds that
//! began as those of the wall clock when the log was made, and go on with the monotonic clock. The
//! file `clock` holds the newest reading:
//!
//! ```text
//! boot u128 | monotonic ms i64 | log's ms i64 | wall ms i64 | checksum u64
//! ```
//!
//! Within one boot the difference of the first two times never changes, so whoever opens the log
//! takes it from there. In the first process after a boot the clock goes on where it was, and
//! moves on by what the wall clock says has passed since the newest reading: nothing if that went
//! back. A log of format 1 has no such file: its times were the wall clock's, and the clock begins
//! with that.
//!
//! Readings are arguments, as all time is. A reading is written again after a second or more, and
//! synced only once a boot: what a power cut takes away is counted by the wall clock then.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use parking_lot::Mutex;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use super::gate::Gate;
use super::wake::deadline;
use super::{LOOK_AGAIN, Log};
use crate::Result;
use crate::environment::files::{io_error, open_regular};

/// The file's name in the directory.
const CLOCK: &str = "clock";
const BYTES: usize = 48;
/// How old the reading in the file may become while the log is used.
const WRITE_EVERY_MS: i64 = 1000;

/// The moment of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// By the log's clock ([`Log::time`]): what durations are measured by.
    pub log_ms: i64,
    /// By the wall clock, in milliseconds since 1970: what timestamps of records are compared with.
    pub wall_ms: i64,
}

impl From<i64> for Now {
    /// Where both clocks show the same.
    fn from(ms: i64) -> Self {
        Self { log_ms: ms, wall_ms: ms }
    }
}

/// What the machine's clocks show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading<'b> {
    /// Tells this boot of the machine from all others.
    pub boot: &'b str,
    /// A clock that begins with the boot and cannot be set.
    pub monotonic_ms: i64,
    /// The wall clock, in milliseconds since 1970.
    pub wall_ms: i64,
}

/// A reading with what the log's clock showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Noted {
    boot: u128,
    monotonic_ms: i64,
    log_ms: i64,
    wall_ms: i64,
}

impl Noted {
    /// The reading of the same boot.
    fn later(self, reading: &Reading<'_>) -> Self {
        let passed_ms = reading.monotonic_ms.saturating_sub(self.monotonic_ms);
        let log_ms = self.log_ms.saturating_add(passed_ms);
        Self { monotonic_ms: reading.monotonic_ms, log_ms, wall_ms: reading.wall_ms, ..self }
    }

    /// The first reading of a boot, after this one of an earlier boot.
    fn in_new_boot(before: Option<Self>, boot: u128, reading: &Reading<'_>) -> Self {
        let log_ms = before.map_or(reading.wall_ms, |before| {
            let passed_ms = reading.wall_ms.saturating_sub(before.wall_ms).max(0);
            before.log_ms.saturating_add(passed_ms)
        });
        Self { boot, monotonic_ms: reading.monotonic_ms, log_ms, wall_ms: reading.wall_ms }
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = self.boot.to_le_bytes().to_vec();
        for time in [self.monotonic_ms, self.log_ms, self.wall_ms] {
            bytes.extend(time.to_le_bytes());
        }
        bytes.extend(xxh3_64(&bytes).to_le_bytes());
        bytes
    }

    /// `None` if it is torn: its writer was cut short by the end of its boot.
    fn decode(bytes: &[u8; BYTES]) -> Option<Self> {
        let (content, checksum) = bytes.split_at(BYTES - 8);
        if xxh3_64(content).to_le_bytes() != *checksum {
            return None;
        }
        let boot = u128::from_le_bytes(*content.first_chunk()?);
        let time = |at: usize| content.as_chunks().0.get(at).map(|word| i64::from_le_bytes(*word));
        Some(Self { boot, monotonic_ms: time(2)?, log_ms: time(3)?, wall_ms: time(4)? })
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Clock {
    path: PathBuf,
    /// What is in the file, as far as we know.
    noted: Mutex<Option<Noted>>,
}

impl Clock {
    pub(super) fn new(directory: &Path) -> Self {
        Self { path: directory.join(CLOCK), noted: Mutex::default() }
    }

    /// What the clock shows; without a gate nothing is written.
    fn read(&self, reading: &Reading<'_>, gate: Option<(&Gate, Instant)>) -> Result<i64> {
        let boot = xxh3_128(reading.boot.as_bytes());
        let mut noted = self.noted.lock();
        let (now, write) = match *noted {
            Some(known) if known.boot == boot => {
                let silent_ms = reading.monotonic_ms.saturating_sub(known.monotonic_ms);
                (known.later(reading), silent_ms >= WRITE_EVERY_MS)
            }
            _ => (self.begin(boot, reading, gate)?, false),
        };
        if write && gate.is_some() {
            // The same clock as before: a reading that is not written makes it no less true.
            let _ = self.write(&now, false);
        }
        if write || noted.is_none_or(|known| known.boot != boot) {
            *noted = Some(now);
        }
        Ok(now.log_ms)
    }

    /// The first reading of this process in this boot.
    fn begin(
        &self,
        boot: u128,
        reading: &Reading<'_>,
        gate: Option<(&Gate, Instant)>,
    ) -> Result<Noted> {
        let found = self.load()?;
        if let Some(found) = found.filter(|found| found.boot == boot) {
            return Ok(found.later(reading));
        }
        let Some((gate, deadline)) = gate else {
            return Ok(Noted::in_new_boot(found, boot, reading));
        };
        // One process begins the clock of a boot; the others take it from the file.
        let _passed = gate.pass(deadline)?;
        let found = self.load()?;
        if let Some(found) = found.filter(|found| found.boot == boot) {
            return Ok(found.later(reading));
        }
        let first = Noted::in_new_boot(found, boot, reading);
        self.write(&first, true)?;
        Ok(first)
    }

    /// Has a copy of the log go on where this one is.
    pub(super) fn copy_to(&self, directory: &Path) -> Result<()> {
        let noted = *self.noted.lock();
        match noted.map_or_else(|| self.load(), |noted| Ok(Some(noted)))? {
            Some(noted) => Self::new(directory).write(&noted, true),
            None => Ok(()),
        }
    }

    fn load(&self) -> Result<Option<Noted>> {
        let mut bytes = [0; BYTES];
        let read = open_regular(File::options().read(true), &self.path)
            .and_then(|file| file.read_exact_at(&mut bytes, 0));
        match read.map_err(|error| (error.kind(), error)) {
            Ok(()) => Ok(Noted::decode(&bytes)),
            Err((io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof, _)) => Ok(None),
            Err((_, error)) => Err(io_error("read", &self.path, &error)),
        }
    }

    fn write(&self, noted: &Noted, sync: bool) -> Result<()> {
        let mut options = File::options();
        options.write(true).create(true).truncate(false).mode(0o600);
        open_regular(&mut options, &self.path)
            .and_then(|file| {
                file.write_all_at(&noted.encode(), 0)?;
                if sync { file.sync_data() } else { Ok(()) }
            })
            .map_err(|error| io_error("write", &self.path, &error))
    }
}

impl Log {
    /// What the log's clock shows, in milliseconds: about those since 1970, but never set, and the
    /// same in all processes. It is the `now_ms` of all calls.
    ///
    /// # Errors
    /// `LogTimeout`: another process holds the log, and this is the first reading since the boot.
    pub fn time(&self, reading: &Reading<'_>) -> Result<i64> {
        self.shared.environment()?;
        let timeout = self.shared.options.commit_timeout;
        let gate = self.shared.gate.as_ref().map(|gate| (gate, deadline(timeout)));
        self.shared.clock.read(reading, gate)
    }
}

impl Gate {
    /// Passes when whoever is inside has come out.
    fn pass(&self, deadline: Instant) -> Result<super::gate::Passed<'_>> {
        let start = Instant::now();
        loop {
            if let Some(passed) = self.try_pass()? {
                return Ok(passed);
            }
            let now = Instant::now();
            if now >= deadline {
                return Err(self.stuck(now - start));
            }
            std::thread::sleep(LOOK_AGAIN.min(deadline - now).min(WAIT));
        }
    }
}

/// Who begins the clock of a boot does it before anything else: nobody else is inside for long.
const WAIT: std::time::Duration = std::time::Duration::from_millis(2);

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(boot: &str, monotonic_ms: i64, wall_ms: i64) -> Reading<'_> {
        Reading { boot, monotonic_ms, wall_ms }
    }

    /// A clock in a directory, as one process after the other sees it.
    fn read(directory: &Path, reading: &Reading<'_>) -> i64 {
        let gate = Gate::open(directory).unwrap();
        Clock::new(directory).read(reading, Some((&gate, Instant::now()))).unwrap()
    }

    /// Liveness by the wall clock: whatever is set, durations are those that have passed.
    #[test]
    fn the_wall_clock_may_be_set_as_it_likes() {
        let directory = tempfile::tempdir().unwrap();
        let at =
            |monotonic_ms, wall_ms| read(directory.path(), &reading("boot", monotonic_ms, wall_ms));
        assert_eq!(at(5_000, 1_000_000), 1_000_000);
        assert_eq!(at(6_000, 9_000_000), 1_001_000);
        assert_eq!(at(8_000, 0), 1_003_000);
    }

    /// Durations go on over a boot, by what the wall clock says has passed, and never back.
    #[test]
    fn a_boot_does_not_set_it_back() {
        let directory = tempfile::tempdir().unwrap();
        let at = |boot, monotonic_ms, wall_ms| {
            read(directory.path(), &reading(boot, monotonic_ms, wall_ms))
        };
        assert_eq!(at("first", 5_000, 1_000_000), 1_000_000);
        // Off for a minute.
        assert_eq!(at("second", 10, 1_060_000), 1_060_000);
        assert_eq!(at("second", 1_010, 1_061_000), 1_061_000);
        // A machine without a battery wakes in 1970.
        assert_eq!(at("third", 7, 3), 1_060_000);
        assert_eq!(at("third", 1_007, 2_000_000), 1_061_000);
    }

    /// One process reads for long: what it notes is what the next boot goes on from.
    #[test]
    fn the_newest_reading_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let gate = Gate::open(directory.path()).unwrap();
        let clock = Clock::new(directory.path());
        let at = |reading| clock.read(&reading, Some((&gate, Instant::now()))).unwrap();
        assert_eq!(at(reading("first", 0, 1_000)), 1_000);
        // The wall clock is set a day ahead, and an hour passes.
        assert_eq!(at(reading("first", 3_600_000, 90_001_000)), 3_601_000);
        assert_eq!(read(directory.path(), &reading("second", 0, 90_002_000)), 3_602_000);
    }

    /// A backup holds times of this clock.
    #[test]
    fn a_copy_goes_on_where_the_clock_was() {
        let (directory, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        Clock::new(directory.path()).copy_to(copy.path()).unwrap();
        assert!(!copy.path().join(CLOCK).exists());
        read(directory.path(), &reading("boot", 5, 1_000));
        Clock::new(directory.path()).copy_to(copy.path()).unwrap();
        assert_eq!(read(copy.path(), &reading("boot", 105, 900_000)), 1_100);
    }

    #[test]
    fn a_reading_that_is_torn_counts_as_none() {
        let directory = tempfile::tempdir().unwrap();
        read(directory.path(), &reading("boot", 5, 1_000));
        for length in [0, 17, 48] {
            std::fs::write(directory.path().join(CLOCK), vec![0; length]).unwrap();
            assert_eq!(read(directory.path(), &reading("boot", 5, 2_000)), 2_000);
        }
    }

    /// A reader may not write, and sees the same time.
    #[test]
    fn a_reader_writes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let clock = Clock::new(directory.path());
        assert_eq!(clock.read(&reading("boot", 5, 1_000), None).unwrap(), 1_000);
        assert!(!directory.path().join(CLOCK).exists());
        read(directory.path(), &reading("boot", 5, 4_000));
        let clock = Clock::new(directory.path());
        assert_eq!(clock.read(&reading("boot", 6, 9_000), None).unwrap(), 4_001);
    }
}
