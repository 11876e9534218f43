//! A log as its users hold it: topics, reading, upkeep.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::fetch::{self, FetchLimits};
use super::infos::{PartitionInfo, TopicInfo};
use super::layout::{HEAD_KEY, Table, Topic, TopicSettings};
use super::maintain::{Budget, Maintained};
use super::options::LogOptions;
use super::records::Fetched;
use super::request::{Answer, Request};
use super::shared::Shared;
use super::view::{self, View};
use super::{open, plain, wake};
use crate::environment::lmdb::Read;
use crate::environment::{StoreSize, creation};
use crate::wakeup::Wakeup;
use crate::{Detail, Error, ErrorKind, Result};

/// A log; clones are handles of the same one, which is closed with the last of them.
#[derive(Debug, Clone)]
pub struct Log {
    pub(super) shared: Arc<Shared>,
}

impl Log {
    /// Opens (or, if asked, creates) the log of `directory`. In one process all handles of a
    /// directory are the same log, with the options of the first.
    ///
    /// # Errors
    /// `StoreMissing`, `StoreFormat`, `StoreMismatch` (a job's state), `StoreCorrupt`,
    /// `StoreLocked`, `StoreReadOnly`, `StoreNetworkFilesystem`, `StoreFull`, `Io`.
    pub fn open(directory: &Path, options: &LogOptions) -> Result<Self> {
        Ok(Self { shared: open::open(directory, options)? })
    }

    /// Where the log lies.
    pub fn path(&self) -> &Path {
        &self.shared.directory
    }

    /// Its identity, made with it: 32 hex digits. Copies have the same.
    pub fn id(&self) -> &str {
        &self.shared.manifest.store_id
    }

    /// How it was opened.
    pub fn options(&self) -> &LogOptions {
        &self.shared.options
    }

    // ---- topics --------------------------------------------------------------------------

    /// A new topic. `TopicExists`, `InvalidArgument`.
    pub fn create_topic(&self, name: &str, settings: &TopicSettings) -> Result<()> {
        let (name, settings) = (name.to_owned(), settings.clone());
        self.submit(Request::CreateTopic { name, settings }).map(|_| ())
    }

    /// Other settings; partitions can be added. `UnknownTopicOrPartition`, `InvalidArgument`.
    pub fn alter_topic(&self, name: &str, settings: &TopicSettings) -> Result<()> {
        let (name, settings) = (name.to_owned(), settings.clone());
        self.submit(Request::AlterTopic { name, settings }).map(|_| ())
    }

    /// Removes a topic; its space is freed by `maintain`. A topic of the same name is a new one.
    pub fn delete_topic(&self, name: &str) -> Result<()> {
        self.submit(Request::DeleteTopic { name: name.to_owned() }).map(|_| ())
    }

    /// All topics, by name.
    pub fn topics(&self) -> Result<Vec<TopicInfo>> {
        let view = self.read()?;
        let mut topics = Vec::new();
        for entry in plain(view.scan(Table::Topics, &[], &[]))? {
            let (key, payload) = plain(entry)?;
            let topic: Topic = plain(view::decode(Table::Topics, key, payload))?;
            let name = String::from_utf8_lossy(key).into_owned();
            topics.push(TopicInfo { name, number: topic.number, settings: topic.settings });
        }
        Ok(topics)
    }

    /// One topic. `UnknownTopicOrPartition`.
    pub fn topic(&self, name: &str) -> Result<TopicInfo> {
        let topic = plain(self.read()?.topic(name))?;
        let (number, settings) = (topic.number, topic.settings);
        Ok(TopicInfo { name: name.to_owned(), number, settings })
    }

    /// Where a partition begins and ends, and what it holds.
    pub fn partition(&self, name: &str, partition: u32) -> Result<PartitionInfo> {
        let view = self.read()?;
        let number = place(&view, name, partition)?;
        let head = plain(view.partition(number, partition))?;
        Ok(PartitionInfo {
            start: head.start,
            end: head.end,
            records: head.records,
            batches: head.batches,
            bytes: head.bytes,
            max_timestamp_ms: head.max_timestamp_ms,
        })
    }

    // ---- reading -------------------------------------------------------------------------

    /// Records of a partition from `offset` on; none at its end.
    ///
    /// # Errors
    /// `UnknownTopicOrPartition`, `OffsetOutOfRange`, `StoreCorrupt`.
    pub fn fetch(
        &self,
        name: &str,
        partition: u32,
        offset: u64,
        limits: FetchLimits,
    ) -> Result<Fetched> {
        let view = self.read()?;
        let number = place(&view, name, partition)?;
        plain(fetch::fetch(&view, name, (number, partition), offset, limits))
    }

    /// The first offset whose record is not older than this; `None` if all are older.
    pub fn offset_for_timestamp(
        &self,
        name: &str,
        partition: u32,
        timestamp_ms: i64,
    ) -> Result<Option<u64>> {
        let view = self.read()?;
        let number = place(&view, name, partition)?;
        plain(self.shared.times.search(&view, (number, partition), timestamp_ms))
    }

    /// Waits until one of these partitions (topic, partition, offset) has a record at or behind its
    /// offset; false if `timeout` came first. Commits of other processes wake it too.
    pub fn wait(&self, positions: &[(String, u32, u64)], timeout: Duration) -> Result<bool> {
        let deadline = wake::deadline(timeout);
        loop {
            let seen = self.shared.wake.commits()?;
            let view = self.read()?;
            for (name, partition, offset) in positions {
                let number = place(&view, name, *partition)?;
                if plain(view.partition(number, *partition))?.end > *offset {
                    return Ok(true);
                }
            }
            drop(view);
            if !self.shared.wake.wait(seen, deadline) {
                return Ok(false);
            }
        }
    }

    /// From now on each commit of any process sets this, for as long as somebody else has it.
    pub fn wake(&self, wakeup: &Arc<Wakeup>) -> Result<()> {
        self.shared.environment()?;
        self.shared.wake.also_set(wakeup)
    }

    // ---- upkeep ------------------------------------------------------------------------------

    /// One slice of upkeep: aborts transactions that are open for too long, deletes what they and
    /// retention leave, declares members dead, forgets silent producers and groups, compacts. Call it
    /// now and then; again while `more`.
    pub fn maintain(&self, now_ms: i64, budget: Budget) -> Result<Maintained> {
        self.shared.environment()?.clear_stale_readers()?;
        self.shared.check_writable()?;
        self.expire_all_members(now_ms)?;
        let mut cursor = self.shared.cursor.lock();
        let request = Request::Maintain { now_ms, budget, cursor: cursor.clone() };
        match self.submit(request)? {
            Answer::Maintained(mut done) => {
                *cursor = done.cursor.clone();
                let (compacted, more) = self.compact(now_ms, budget.batches)?;
                done.compacted = compacted;
                done.more |= more;
                Ok(done)
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Length of the file, and how much of it is in use.
    pub fn size(&self) -> Result<StoreSize> {
        let environment = self.shared.environment()?;
        Ok(StoreSize {
            file_bytes: environment.file_bytes()?,
            used_bytes: environment.read()?.used_bytes()?,
        })
    }

    /// A consistent copy into a directory that does not exist yet, while running.
    pub fn backup(&self, target: &Path) -> Result<()> {
        let Shared { manifest, map_size_bytes, .. } = &*self.shared;
        let environment = self.shared.environment()?;
        creation::backup::<Table>(environment, manifest, target, *map_size_bytes, |txn| {
            let mut head = view::head(txn.get(Table::Meta, HEAD_KEY)?)?;
            view::put_head(txn, &mut head)
        })?;
        self.shared.clock.copy_to(target)
    }

    pub(super) fn submit(&self, request: Request) -> Result<Answer> {
        self.shared.submit(Arc::new(request))
    }

    pub(super) fn read(&self) -> Result<Read<'_>> {
        self.shared.environment()?.read()
    }
}

/// Number of a topic that has this partition.
pub(super) fn place(view: &impl View, name: &str, partition: u32) -> Result<u32> {
    let topic = plain(view.topic(name))?;
    if partition < topic.settings.partitions {
        return Ok(topic.number);
    }
    Err(no_partition(name, partition, topic.settings.partitions))
}

pub(super) fn no_partition(name: &str, partition: u32, partitions: u32) -> Error {
    let text = format!("topic {name:?} has partitions 0 to {}, no {partition}", partitions - 1);
    Error::new(ErrorKind::UnknownTopicOrPartition, text)
        .with(Detail::Partition { topic: name.to_owned(), partition })
}

pub(super) fn unexpected(answer: &Answer) -> Error {
    Error::new(ErrorKind::Io, format!("the log gave another answer than was asked for: {answer:?}"))
}
