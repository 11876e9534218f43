//! Opening: as owner, with a new job epoch, or as a reader.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::layout::{Database, FORMAT_VERSION, HEAD_KEY, Head, Tally};
use super::local::{Store, StoreOptions, Writer};
use super::records::reserve_ids;
use super::values::{head_of, put_head, read_head};
use crate::environment::creation::{self, Found};
use crate::environment::lmdb::{Access, Environment, Failure, Read};
use crate::environment::lock::{Claim, FileId, OwnerLock, ReaderLock, holder_of, slot};
use crate::environment::manifest::{Kind, Manifest, newer_format};
use crate::environment::opening::{
    can_take_slot, enter, enter_existing, open_environment, read_manifest,
};
use crate::environment::value::open_value;
use crate::environment::{corrupt, whole_pages};
use crate::{Detail, Error, ErrorKind, Result};

/// How long to wait for LMDB's writer lock. A running owner holds it for one commit; only one that
/// is paused in the middle of a commit (or on a stuck disk) holds it longer.
const WRITER_LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// What an owner holds.
#[derive(Debug)]
pub(super) struct Owner {
    pub(super) job_epoch: u64,
    #[expect(dead_code, reason = "held for its lock")]
    lock: OwnerLock,
    #[expect(dead_code, reason = "held for its place in the registry")]
    claim: Arc<Claim>,
}

impl Owner {
    /// `Fenced` if `head` has a newer epoch than ours.
    pub(super) fn check(&self, head: &Head, directory: &Path) -> Result<()> {
        if head.job_epoch == self.job_epoch {
            return Ok(());
        }
        let (newest, ours) = (head.job_epoch, self.job_epoch);
        if newest < ours {
            return Err(corrupt(format!(
                "{} has gone back to job epoch {newest} from {ours}",
                directory.display()
            )));
        }
        Err(Error::new(
            ErrorKind::Fenced,
            format!(
                "{} is at job epoch {newest}, but this process owns epoch {ours}: another process \
                 has taken over, so stop this one",
                directory.display()
            ),
        )
        .with(Detail::Epochs { epoch: ours as i64, newer: newest as i64 }))
    }
}

/// What a store was created with.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct StoreSettings {
    pub job: String,
    pub key_groups: u16,
}

/// The settings of the store in `directory`, for a reader that does not know them.
///
/// # Errors
/// `StoreMissing`, `StoreFormat`, `StoreCorrupt` (of the manifest), `Io`.
pub fn settings(directory: &Path) -> Result<StoreSettings> {
    let directory = enter_existing(directory)?;
    let manifest = read_manifest(&directory, Kind::State)?;
    Ok(StoreSettings { job: manifest.job, key_groups: manifest.key_groups })
}

impl Store {
    pub(super) fn open_owner(directory: &Path, options: &StoreOptions) -> Result<Self> {
        check_options(options)?;
        let map_size_bytes = whole_pages(options.map_size_bytes)?;
        let directory = enter(directory, options.create)?;
        let slot = slot(FileId::of(&directory)?);
        let mut slot = slot.lock();
        let claim = Arc::new(slot.claim(&directory)?);
        let shared = match slot.environment() {
            Some(environment) if environment.access() != Access::Owner => {
                return Err(Error::new(
                    ErrorKind::StoreLocked,
                    format!(
                        "{} is open with read_only in this process; close that first",
                        directory.display()
                    ),
                ));
            }
            Some(environment) if environment.is_poisoned() => {
                return Err(Error::new(
                    ErrorKind::StorePoisoned,
                    format!(
                        "{} is still open with read_only in this process, from before an error; \
                         close that first",
                        directory.display()
                    ),
                ));
            }
            shared => shared,
        };

        // A lock that is held is replaced later, together with raising the epoch.
        let lock = match OwnerLock::acquire(&directory) {
            Err(error) if options.take_over && error.kind() == ErrorKind::StoreLocked => None,
            lock => Some(lock?),
        };
        // Again, under the lock: another process may have created it meanwhile.
        if creation::look(&directory)? == Found::Nothing {
            if lock.is_none() {
                return Err(being_created(&directory));
            }
            create(&directory, options)?;
        }
        let manifest = read_manifest(&directory, Kind::State)?;
        check_settings(&manifest, &directory, options)?;
        let environment = match shared {
            Some(environment) => environment,
            None => open_environment::<Database>(
                &directory,
                &manifest,
                map_size_bytes,
                Access::Owner,
                None,
            )?,
        };
        slot.set_environment(&environment);
        check_contents(&environment.read()?, &manifest, &directory)?;

        crate::crash_point!("recover.pre_fence");
        let Fenced { job_epoch, ids, lock } = fence(&environment, &directory, lock, &claim)?;
        crate::crash_point!("recover.post_fence");
        let owner = Owner { job_epoch, lock, claim };
        discard_leftovers(&environment, &owner, &directory)?;
        raise_manifest(&environment, &owner, &manifest, &directory)?;
        Ok(Self {
            directory,
            manifest,
            map_size_bytes,
            pid: std::process::id(),
            environment: Some(environment),
            owner: Some(owner),
            writer: Mutex::new(Writer { ids, ..Writer::default() }),
        })
    }

    /// Opens for reading, beside an owner if there is one. Without options: whatever the job.
    pub(super) fn open_reader(directory: &Path, options: Option<&StoreOptions>) -> Result<Self> {
        let directory = enter_existing(directory)?;
        let slot = slot(FileId::of(&directory)?);
        let mut slot = slot.lock();
        let manifest = read_manifest(&directory, Kind::State)?;
        if let Some(options) = options {
            check_settings(&manifest, &directory, options)?;
        }
        let map_size_bytes = match options {
            Some(options) => whole_pages(options.map_size_bytes)?,
            None => whole_pages(1 << 20)?,
        };
        let environment = match slot.environment() {
            Some(environment) => environment,
            None => {
                // Without the right to write there is no slot in the reader table, and the owner
                // would recycle pages that are being read: keep owners out instead.
                let (access, guard) = if can_take_slot(&directory) {
                    (Access::Reader, None)
                } else {
                    (Access::ReaderWithoutSlot, Some(ReaderLock::acquire(&directory)?))
                };
                open_environment::<Database>(&directory, &manifest, map_size_bytes, access, guard)?
            }
        };
        slot.set_environment(&environment);
        check_contents(&environment.read()?, &manifest, &directory)?;
        Ok(Self {
            directory,
            manifest,
            map_size_bytes,
            pid: std::process::id(),
            environment: Some(environment),
            owner: None,
            writer: Mutex::new(Writer::default()),
        })
    }
}

/// Where there is no store yet there is no epoch that could be raised over its creator's.
fn being_created(directory: &Path) -> Error {
    let holder = holder_of(directory);
    let creator = holder.map_or("another process".to_owned(), |pid| format!("process {pid}"));
    Error::new(
        ErrorKind::StoreLocked,
        format!(
            "{} is being created by {creator}, so there is nothing to take over yet: let it go on, \
             or kill it, and open the store again",
            directory.display()
        ),
    )
    .with_process(holder)
}

/// Creates the store in a directory that `look` found to hold none. Needs the owner lock.
fn create(directory: &Path, options: &StoreOptions) -> Result<()> {
    let mut manifest = Manifest::new(Kind::State, options.store_id);
    manifest.job.clone_from(&options.job);
    manifest.key_groups = options.key_groups;
    let mut head = Head {
        format: FORMAT_VERSION,
        store_id: manifest.store_id.clone(),
        job: options.job.clone(),
        key_groups: options.key_groups,
        job_epoch: 0,
        next_checkpoint_id: 1,
        transaction: 0,
        records: BTreeMap::new(),
        notes: Tally::default(),
    };
    let map_size_bytes = whole_pages(options.map_size_bytes)?;
    creation::build::<Database>(directory, manifest, map_size_bytes, |txn| put_head(txn, &mut head))
}

/// Refuses another job or other settings than `options` ask for.
fn check_settings(manifest: &Manifest, directory: &Path, options: &StoreOptions) -> Result<()> {
    if manifest.job != options.job {
        return Err(Error::new(
            ErrorKind::StoreMismatch,
            format!(
                "{} belongs to the job {:?}, but was opened for the job {:?}; give each job a \
                     directory of its own",
                directory.display(),
                manifest.job,
                options.job
            ),
        )
        .with(Detail::Setting {
            setting: "job",
            stored: manifest.job.clone(),
            given: options.job.clone(),
        }));
    }
    if manifest.key_groups != options.key_groups {
        return Err(Error::new(
            ErrorKind::StoreMismatch,
            format!(
                "{} was created with {} key groups, but was opened with {}; the number is \
                     fixed at creation, so open it with {}",
                directory.display(),
                manifest.key_groups,
                options.key_groups,
                manifest.key_groups
            ),
        )
        .with(Detail::Setting {
            setting: "key_groups",
            stored: manifest.key_groups.to_string(),
            given: options.key_groups.to_string(),
        }));
    }
    Ok(())
}

fn check_options(options: &StoreOptions) -> Result<()> {
    let groups = options.key_groups;
    if !groups.is_power_of_two() {
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            format!("key_groups is {groups}, but must be a power of two"),
        )
        .with_argument("key_groups"));
    }
    if options.job.is_empty() || options.job.len() > 1000 {
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            format!("a job's name has 1 to 1000 bytes, not {}", options.job.len()),
        )
        .with_argument("job"));
    }
    Ok(())
}

/// Checks head and notes against the manifest, the transaction and each other: a page that is valid
/// by itself but older than the rest shows here.
fn check_contents(txn: &Read<'_>, manifest: &Manifest, directory: &Path) -> Result<()> {
    let damaged =
        |reason: String| corrupt(format!("{}: {reason}; restore a backup", directory.display()));
    let head = read_head(txn)?;
    if head.format > FORMAT_VERSION {
        return Err(newer_format(u64::from(head.format), FORMAT_VERSION, directory));
    }
    if (&head.store_id, &head.job, head.key_groups)
        != (&manifest.store_id, &manifest.job, manifest.key_groups)
    {
        return Err(damaged(format!(
            "the manifest is that of store {} (job {:?}), but the data file is of store {} (job \
             {:?})",
            manifest.store_id, manifest.job, head.store_id, head.job
        )));
    }
    if head.transaction != txn.transaction() {
        return Err(damaged(format!(
            "the data file is at transaction {}, but its content is of transaction {}",
            txn.transaction(),
            head.transaction
        )));
    }
    if head.transaction < manifest.newest_transaction {
        return Err(damaged(format!(
            "the data file is at transaction {}, but was at {} before: it was replaced by an older \
             one",
            head.transaction, manifest.newest_transaction
        )));
    }
    // Records are compared with the head where they are read: one may be damaged, others not.
    let mut notes = Tally::default();
    for entry in txn.entries(Database::Notes)? {
        let (key, value) = entry?;
        notes.add(value);
        open_value(Database::Notes, key, value)
            .map_err(|reason| damaged(format!("a note is damaged: {reason}")))?;
    }
    if notes != head.notes {
        return Err(damaged(format!(
            "the notes are not those of transaction {}: {} with sum {:016x} instead of {} with sum \
             {:016x}",
            head.transaction, notes.count, notes.sum, head.notes.count, head.notes.sum
        )));
    }
    Ok(())
}

/// What raising the epoch gives.
struct Fenced {
    job_epoch: u64,
    /// A block of checkpoint ids, reserved in the same transaction.
    ids: std::ops::Range<u64>,
    lock: OwnerLock,
}

/// Where a wait for LMDB's writer lock stands.
enum Wait {
    Queued,
    GivenUp,
    Working,
    Done(std::result::Result<Fenced, Failure>),
}

/// Raises the job epoch durably; without a lock, it takes the owner lock over first.
///
/// LMDB waits for its writer lock without a bound, and a process that is paused in the middle of a
/// commit keeps it. So a thread of our own queues for it; if it takes too long, the caller gets an
/// error and the thread, once it has the lock, leaves without a trace.
fn fence(
    environment: &Arc<Environment>,
    directory: &Path,
    lock: Option<OwnerLock>,
    claim: &Arc<Claim>,
) -> Result<Fenced> {
    let former = if lock.is_none() { holder_of(directory) } else { None };
    let wait = Arc::new((Mutex::new(Wait::Queued), Condvar::new()));
    let thread = {
        let (environment, directory) = (Arc::clone(environment), directory.to_owned());
        let (claim, wait) = (Arc::clone(claim), Arc::clone(&wait));
        move || {
            let (state, changed) = &*wait;
            let outcome = environment.write(|txn| {
                let mut state = state.lock();
                if matches!(*state, Wait::GivenUp) {
                    return Err(Error::new(ErrorKind::StoreLocked, "given up").into());
                }
                *state = Wait::Working;
                drop(state);
                let lock = match lock {
                    // Another process may have taken it over since.
                    Some(lock) => lock.check().map(|()| lock)?,
                    None => OwnerLock::take_over(&directory)?,
                };
                let mut head = head_of(txn.get(Database::Meta, HEAD_KEY)?)?;
                head.job_epoch += 1;
                let ids = reserve_ids(&mut head)?;
                put_head(txn, &mut head)?;
                Ok(Fenced { job_epoch: head.job_epoch, ids, lock })
            });
            drop(environment);
            drop(claim);
            *state.lock() = Wait::Done(outcome);
            changed.notify_all();
        }
    };
    std::thread::Builder::new()
        .name("onceflow-fence".to_owned())
        .spawn(thread)
        .map_err(|error| Error::new(ErrorKind::Io, format!("cannot start a thread: {error}")))?;

    let (state, changed) = &*wait;
    let mut state = state.lock();
    changed.wait_while_for(&mut state, |s| matches!(s, Wait::Queued), WRITER_LOCK_TIMEOUT);
    if matches!(*state, Wait::Queued) {
        *state = Wait::GivenUp;
        let holder = former.map_or_else(|| "its owner".to_owned(), |pid| format!("process {pid}"));
        return Err(Error::new(
            ErrorKind::StoreLocked,
            format!(
                "{}: {holder} is paused in the middle of a commit and holds the writer lock \
                 (waited {} s); kill it, or let it go on, and open the store again",
                directory.display(),
                WRITER_LOCK_TIMEOUT.as_secs()
            ),
        )
        .with_process(former));
    }
    changed.wait_while(&mut state, |s| !matches!(s, Wait::Done(_)));
    match std::mem::replace(&mut *state, Wait::GivenUp) {
        Wait::Done(outcome) => outcome.map_err(|failure| failure.error),
        _ => Err(Error::new(ErrorKind::Io, "the thread that raises the epoch ended early")),
    }
}

/// Removes what killed processes have left, unless fenced: what lies there then may be the next
/// owner's, who is in the middle of it.
fn discard_leftovers(environment: &Environment, owner: &Owner, directory: &Path) -> Result<()> {
    environment
        .read_locked(|txn| {
            owner.check(&head_of(txn.get(Database::Meta, HEAD_KEY)?)?, directory)?;
            Ok(creation::discard_leftovers(directory)?)
        })
        .map_err(|failure| failure.error)
}

/// Raises the manifest's lower bounds to what is durable, unless fenced; see `Store`.
pub(super) fn raise_manifest(
    environment: &Environment,
    owner: &Owner,
    manifest: &Manifest,
    directory: &Path,
) -> Result<()> {
    let mut raised = manifest.clone();
    raised.min_length_bytes = environment.file_bytes()?;
    owner.check(&read_head(&environment.read()?)?, directory)?;
    environment
        .read_locked(|txn| {
            let head = head_of(txn.get(Database::Meta, HEAD_KEY)?)?;
            owner.check(&head, directory)?;
            raised.newest_transaction = head.transaction;
            Ok(raised.replace(directory)?)
        })
        .map_err(|failure| failure.error)
}
