//! Waking those who wait for a commit, in this process and in others, without polling.
//!
//! Whoever commits touches the file `wake`; a thread of each process that waits is told by inotify
//! and wakes the process's waiters. A waiter takes the count of commits *before* it looks whether
//! there is something for it, so that a commit in between is not missed.

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fd::OwnedFd;
use rustix::fs::inotify;

use crate::Result;
use crate::environment::files::{io_error, open_regular};
use crate::wakeup::Wakeup;

/// The file's name in the directory.
pub(super) const WAKE: &str = "wake";

#[derive(Debug)]
pub(super) struct Wake {
    path: PathBuf,
    /// `None` for a reader that may not write.
    file: Option<File>,
    shared: Arc<Shared>,
    watcher: Mutex<Option<Watcher>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Commits that were seen.
    commits: Mutex<u64>,
    changed: Condvar,
    /// What each commit sets too, while somebody has it.
    wakeups: Mutex<Vec<Weak<Wakeup>>>,
}

#[derive(Debug)]
struct Watcher {
    pid: u32,
    stop: OwnedFd,
    thread: Option<JoinHandle<()>>,
}

impl Wake {
    pub(super) fn open(directory: &Path, read_only: bool) -> Result<Self> {
        let path = directory.join(WAKE);
        let file = match read_only {
            true => None,
            false => {
                let mut options = File::options();
                options.write(true).create(true).truncate(false).mode(0o600);
                let file = open_regular(&mut options, &path);
                Some(file.map_err(|error| io_error("open", &path, &error))?)
            }
        };
        Ok(Self { path, file, shared: Arc::default(), watcher: Mutex::default() })
    }

    /// Something was committed.
    pub(super) fn touch(&self) {
        self.shared.notify();
        if let Some(file) = &self.file {
            // A waiter that misses it looks again at the end of its own time limit.
            let _ = file.write_all_at(&[1], 0);
        }
    }

    /// The count of commits, to be taken before looking for something to do.
    pub(super) fn commits(&self) -> Result<u64> {
        self.watch()?;
        Ok(*self.shared.commits.lock())
    }

    /// From now on each commit sets this too, for as long as somebody else has it.
    pub(super) fn also_set(&self, wakeup: &Arc<Wakeup>) -> Result<()> {
        let wakeup = Arc::downgrade(wakeup);
        let mut wakeups = self.shared.wakeups.lock();
        wakeups.retain(|other| other.strong_count() > 0);
        if !wakeups.iter().any(|other| other.ptr_eq(&wakeup)) {
            wakeups.push(wakeup);
        }
        drop(wakeups);
        self.watch()
    }

    /// Waits until more is committed than `seen`, or until `deadline`; false if it came first.
    pub(super) fn wait(&self, seen: u64, deadline: Instant) -> bool {
        let mut commits = self.shared.commits.lock();
        while *commits == seen {
            if self.shared.changed.wait_until(&mut commits, deadline).timed_out() {
                return *commits != seen;
            }
        }
        true
    }

    /// Starts the thread that hears of other processes' commits, once.
    fn watch(&self) -> Result<()> {
        let mut watcher = self.watcher.lock();
        if watcher.as_ref().is_some_and(|watcher| watcher.pid == std::process::id()) {
            return Ok(());
        }
        let failed = |error: rustix::io::Errno| io_error("watch", &self.path, &error.into());
        let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
        let events = inotify::init(flags).map_err(failed)?;
        let flags = inotify::WatchFlags::MODIFY | inotify::WatchFlags::DONT_FOLLOW;
        inotify::add_watch(&events, &self.path, flags).map_err(failed)?;
        let stop = eventfd(0, EventfdFlags::CLOEXEC).map_err(failed)?;
        let stopped = stop.try_clone().map_err(|error| io_error("watch", &self.path, &error))?;
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new()
            .name("onceflow-wake".to_owned())
            .spawn(move || hear(&events, &stopped, &shared))
            .map_err(|error| io_error("watch", &self.path, &error))?;
        *watcher = Some(Watcher { pid: std::process::id(), stop, thread: Some(thread) });
        Ok(())
    }
}

impl Shared {
    fn notify(&self) {
        *self.commits.lock() += 1;
        self.changed.notify_all();
        for wakeup in self.wakeups.lock().iter().filter_map(Weak::upgrade) {
            wakeup.set();
        }
    }
}

/// The thread: until it is stopped.
fn hear(events: &OwnedFd, stop: &OwnedFd, shared: &Shared) {
    let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
    loop {
        let mut fds = [PollFd::new(events, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => return,
        }
        if !fds[1].revents().is_empty() {
            return;
        }
        let mut reader = inotify::Reader::new(events, &mut buffer);
        while reader.next().is_ok() {}
        shared.notify();
    }
}

impl Drop for Wake {
    fn drop(&mut self) {
        let Some(mut watcher) = self.watcher.get_mut().take() else { return };
        // A forked child has no such thread, and its parent's must go on.
        if watcher.pid == std::process::id()
            && rustix::io::write(&watcher.stop, &1_u64.to_ne_bytes()).is_ok()
            && let Some(thread) = watcher.thread.take()
        {
            let _ = thread.join();
        }
    }
}

/// The moment that lies so far ahead.
pub(super) fn deadline(timeout: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(timeout).unwrap_or_else(|| now + Duration::from_secs(365 * 24 * 3600))
}
