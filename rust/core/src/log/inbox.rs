//! Inboxes: what processes ask for while another one commits, so that they share its successor's
//! sync instead of queueing for one each.
//!
//! Each process has a file `inbox/ID`, made when it first finds the gate closed, and locked as long
//! as it lives:
//!
//! ```text
//! number u64 | length u64 | checksum u64 | length bytes: msgpack of a list of requests
//! checksum = XXH3-64 of the list, seeded with number
//! ```
//!
//! 1. Who finds the gate closed writes its requests there (not synced: they are not promised yet),
//!    under its next number, and waits for the gate *or* for an answer.
//! 2. Who passes the gate reads all inboxes, and applies what is new in them together with its own
//!    requests, in one transaction. The same transaction notes, for each inbox, the number and the
//!    answers in `inboxes`: so however it ends, a request is applied and answered, or neither.
//! 3. The waiting process is woken by the commit and finds its answers; or it passes the gate
//!    itself, and serves the others.
//!
//! A list that is torn (its process is just writing it) does not pass its checksum and waits for the
//! next commit. A process that gives up takes its list back, unless it is being applied. The inbox
//! of a process that has ended is removed.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::fs::{FlockOperation, RenameFlags};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::layout::{Applied, Table};
use super::open::enter_private_directory;
use super::request::{Answer, Request};
use super::view::{Step, View, Work, decode, encode};
use crate::environment::files::{io_error, open_regular, remove};
use crate::{Error, ErrorKind, Result};

const INBOX: &str = "inbox";
/// An inbox that has no name yet.
const NEW: &str = "new-";
const HEADER_BYTES: usize = 24;
/// A list that says to be longer is none of ours.
const MAX_BYTES: usize = 1 << 30;

#[derive(Debug)]
pub(super) struct Inboxes {
    directory: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    own: Option<Own>,
    /// The others' files, with the number that was applied last as far as we know.
    others: HashMap<u128, (File, u64)>,
}

/// Our inbox; the lock on its file says that we live.
#[derive(Debug)]
struct Own {
    pid: u32,
    id: u128,
    file: File,
    path: PathBuf,
    number: u64,
    /// Whether a list is in it.
    listed: bool,
}

/// A list of requests in an inbox.
#[derive(Debug)]
pub(super) struct Letter {
    pub(super) id: u128,
    pub(super) number: u64,
    pub(super) requests: Vec<Arc<Request>>,
}

/// The inbox of a process that has ended.
#[derive(Debug)]
pub(super) struct Gone {
    pub(super) id: u128,
    path: PathBuf,
}

impl Gone {
    /// Removes the file, after what was noted for it.
    pub(super) fn remove(&self) {
        // What stays behind is found again.
        let _ = remove(&self.path);
    }
}

/// What was posted, for whom an answer will come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Posted {
    pub(super) id: u128,
    pub(super) number: u64,
}

/// An answer as it is noted.
#[derive(Serialize, Deserialize)]
enum Noted {
    Answer(Answer),
    Error(ErrorKind, String),
}

impl Inboxes {
    pub(super) fn open(directory: &Path, read_only: bool) -> Result<Self> {
        let directory = directory.join(INBOX);
        if !read_only {
            enter_private_directory(&directory)?;
        }
        Ok(Self { directory, state: Mutex::default() })
    }

    /// Puts requests into our inbox.
    pub(super) fn post(&self, requests: &[Arc<Request>], fresh: u128) -> Result<Posted> {
        let list: Vec<&Request> = requests.iter().map(AsRef::as_ref).collect();
        let list = encode(&list)?;
        let mut state = self.state.lock();
        let own = match &mut state.own {
            Some(own) if own.pid == std::process::id() => own,
            own => own.insert(Own::create(&self.directory, fresh)?),
        };
        own.number += 1;
        own.listed = true;
        own.write(&list)?;
        crate::crash_point!("inbox.post");
        Ok(Posted { id: own.id, number: own.number })
    }

    /// Takes back what was posted: it was answered, or its time is over. What is left behind could
    /// be applied after what comes later (whoever reads it at this moment comes before that).
    pub(super) fn withdraw(&self) {
        let mut state = self.state.lock();
        if let Some(own) = &mut state.own
            && std::mem::take(&mut own.listed)
        {
            // Whoever reads it meanwhile finds a torn list.
            let _ = own.file.set_len(0);
        }
    }

    /// What the others ask for, up to so many bytes, and whose inboxes are to be forgotten; whoever
    /// is inside the gate calls it.
    pub(super) fn collect(&self, max_bytes: usize) -> Result<(Vec<Letter>, Vec<Gone>)> {
        let mut guard = self.state.lock();
        let State { own, others } = &mut *guard;
        let own = own.as_ref().map(|own| own.id);
        let failed = |error| io_error("list the directory", &self.directory, &error);
        let (mut letters, mut gone, mut bytes) = (Vec::new(), Vec::new(), 0);
        for entry in std::fs::read_dir(&self.directory).map_err(failed)?.flatten() {
            let name = entry.file_name();
            let id = name.to_str().and_then(|name| u128::from_str_radix(name, 16).ok());
            let Some(id) = id.filter(|id| Some(*id) != own) else { continue };
            let (file, applied) = match others.entry(id) {
                Slot::Occupied(slot) => slot.into_mut(),
                Slot::Vacant(slot) => match open_regular(File::options().read(true), &entry.path())
                {
                    Ok(file) => slot.insert((file, 0)),
                    // It may be gone again.
                    Err(_) => continue,
                },
            };
            if rustix::fs::flock(&*file, FlockOperation::NonBlockingLockExclusive).is_ok() {
                // Its process has closed the log, or is dead.
                others.remove(&id);
                gone.push(Gone { id, path: entry.path() });
                continue;
            }
            let Some((number, list)) = read(file, *applied, max_bytes - bytes) else { continue };
            bytes += list.len();
            if let Ok(requests) = rmp_serde::from_slice::<Vec<Request>>(&list) {
                let requests = requests.into_iter().map(Arc::new).collect();
                letters.push(Letter { id, number, requests });
            }
        }
        Ok((letters, gone))
    }

    /// Remembers what need not be read again.
    pub(super) fn applied(&self, letters: &[Letter]) {
        let mut state = self.state.lock();
        for letter in letters {
            if let Some((_, applied)) = state.others.get_mut(&letter.id) {
                *applied = letter.number;
            }
        }
    }
}

/// The list in an inbox, if it is a new one, whole, and not too long for now.
fn read(file: &File, applied: u64, max_bytes: usize) -> Option<(u64, Vec<u8>)> {
    let mut header = [0; HEADER_BYTES];
    file.read_exact_at(&mut header, 0).ok()?;
    let word = |at: usize| header.as_chunks().0.get(at).map(|word| u64::from_le_bytes(*word));
    let (number, length, checksum) = (word(0)?, usize::try_from(word(1)?).ok()?, word(2)?);
    if number <= applied || length > max_bytes.min(MAX_BYTES) {
        return None;
    }
    let mut list = vec![0; length];
    file.read_exact_at(&mut list, HEADER_BYTES as u64).ok()?;
    (xxh3_64_with_seed(&list, number) == checksum).then_some((number, list))
}

impl Own {
    fn create(directory: &Path, id: u128) -> Result<Self> {
        let path = directory.join(format!("{id:032x}"));
        let new = directory.join(format!("{NEW}{id:032x}"));
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&new)
            .map_err(|error| io_error("create", &new, &error))?;
        // It is locked before others can see it and take its process for dead.
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)
            .map_err(|error| io_error("lock", &new, &error.into()))?;
        // Two processes with one inbox would take each other's answers for theirs.
        let (here, flags) = (rustix::fs::CWD, RenameFlags::NOREPLACE);
        rustix::fs::renameat_with(here, &new, here, &path, flags)
            .map_err(|error| io_error("create", &path, &error.into()))?;
        Ok(Self { pid: std::process::id(), id, file, path, number: 0, listed: false })
    }

    fn write(&self, list: &[u8]) -> Result<()> {
        let mut header = Vec::with_capacity(HEADER_BYTES);
        header.extend(self.number.to_le_bytes());
        header.extend((list.len() as u64).to_le_bytes());
        header.extend(xxh3_64_with_seed(list, self.number).to_le_bytes());
        self.file
            .write_all_at(list, HEADER_BYTES as u64)
            .and_then(|()| self.file.write_all_at(&header, 0))
            .map_err(|error| io_error("write", &self.path, &error))
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        if self.pid == std::process::id() {
            // Whoever finds it unlocked removes it, and what was noted for it.
            let _ = rustix::fs::flock(&self.file, FlockOperation::Unlock);
        }
    }
}

/// The number that was applied last of an inbox.
pub(super) fn last_applied(view: &impl View, id: u128) -> Step<u64> {
    let applied: Option<Applied> = view.value(Table::Inboxes, &id.to_be_bytes())?;
    Ok(applied.map_or(0, |applied| applied.number))
}

/// Notes what was applied, and the answers.
pub(super) fn note(
    work: &mut Work<'_, '_>,
    posted: Posted,
    answers: &[Result<Answer>],
) -> Step<()> {
    let noted = answers.iter().map(|answer| match answer {
        Ok(answer) => Noted::Answer(answer.clone()),
        Err(error) => Noted::Error(error.kind(), error.to_string()),
    });
    let answer = encode(&noted.collect::<Vec<_>>())?;
    let applied = Applied { number: posted.number, answer };
    work.put(Table::Inboxes, &posted.id.to_be_bytes(), &applied)
}

/// The answers to what was posted, if it was applied.
pub(super) fn answers(view: &impl View, posted: Posted) -> Step<Option<Vec<Result<Answer>>>> {
    let key = posted.id.to_be_bytes();
    let applied: Option<Applied> = view.value(Table::Inboxes, &key)?;
    let Some(applied) = applied.filter(|applied| applied.number == posted.number) else {
        return Ok(None);
    };
    let noted: Vec<Noted> = decode(Table::Inboxes, &key, &applied.answer)?;
    let answers = noted.into_iter().map(|noted| match noted {
        Noted::Answer(answer) => Ok(answer),
        Noted::Error(kind, text) => Err(Error::new(kind, text)),
    });
    Ok(Some(answers.collect()))
}

/// Forgets what was noted for an inbox that is gone.
pub(super) fn forget(work: &mut Work<'_, '_>, id: u128) -> Step<()> {
    let key = id.to_be_bytes();
    if work.payload(Table::Inboxes, &key)?.is_some() {
        work.delete(Table::Inboxes, &key)?;
    }
    Ok(())
}
