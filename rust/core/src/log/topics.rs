//! Topics: creating, changing and deleting them.

use super::layout::{
    MAX_TOPIC_NAME_BYTES, Partition, Table, Topic, TopicSettings, in_partition_key, partition_key,
};
use super::request::Answer;
use super::view::{Step, View, Work, unknown_topic};
use crate::{Detail, Error, ErrorKind, Result};

/// Partitions of one topic: each is a few bytes, but a typing error should not make millions.
const MAX_PARTITIONS: u32 = 10_000;

pub(super) fn create(
    work: &mut Work<'_, '_>,
    name: &str,
    settings: &TopicSettings,
) -> Step<Answer> {
    check_name(name)?;
    check_settings(settings)?;
    if work.payload(Table::Topics, name.as_bytes())?.is_some() {
        let text = format!("a topic {name:?} exists already; use it, or choose another name");
        let detail = Detail::Topic { topic: name.to_owned() };
        return Err(Error::new(ErrorKind::TopicExists, text).with(detail).into());
    }
    let number = work.head.next_topic;
    work.head.next_topic = number.checked_add(1).ok_or_else(|| {
        Error::new(ErrorKind::CapacityExceeded, "no numbers are left for new topics")
    })?;
    for partition in 0..settings.partitions {
        work.put_partition(number, partition, &Partition::default())?;
    }
    let topic = Topic { number, settings: settings.clone() };
    work.put(Table::Topics, name.as_bytes(), &topic)?;
    Ok(Answer::Done)
}

/// New settings; partitions can be added, not taken away.
pub(super) fn alter(work: &mut Work<'_, '_>, name: &str, settings: &TopicSettings) -> Step<Answer> {
    check_settings(settings)?;
    let mut topic = work.topic(name)?;
    let before = topic.settings.partitions;
    if settings.partitions < before {
        let text = format!(
            "topic {name:?} has {before} partitions: there can be more, but not {}, since their \
             records would be lost",
            settings.partitions
        );
        return Err(Error::new(ErrorKind::InvalidArgument, text).into());
    }
    for partition in before..settings.partitions {
        work.put_partition(topic.number, partition, &Partition::default())?;
    }
    topic.settings = settings.clone();
    work.put(Table::Topics, name.as_bytes(), &topic)?;
    Ok(Answer::Done)
}

/// The name is free at once, and nobody can read or write any more; the batches go in slices,
/// as those of partitions that no topic has (see `maintain`).
pub(super) fn delete(work: &mut Work<'_, '_>, name: &str) -> Step<Answer> {
    if work.payload(Table::Topics, name.as_bytes())?.is_none() {
        return Err(unknown_topic(name).into());
    }
    let topic = work.topic(name)?;
    work.delete(Table::Topics, name.as_bytes())?;
    for partition in 0..topic.settings.partitions {
        work.delete(Table::Partitions, &partition_key(topic.number, partition))?;
    }
    Ok(Answer::Done)
}

/// The first batch or window, from a key on, whose partition does not exist any more.
pub(super) fn first_orphan(work: &Work<'_, '_>, table: Table) -> Step<Option<Vec<u8>>> {
    let mut key = in_partition_key(0, 0, 0);
    loop {
        let Some(entry) = work.stored_from(table, &key)?.next() else { return Ok(None) };
        let (found, _) = entry?;
        let Some((topic, partition, _)) = super::layout::parse_in_partition(found) else {
            return Ok(Some(found.to_vec()));
        };
        if work.payload(Table::Partitions, &partition_key(topic, partition))?.is_none() {
            return Ok(Some(found.to_vec()));
        }
        // On to the next partition.
        let (topic, partition) = match partition.checked_add(1) {
            Some(partition) => (topic, partition),
            None => (topic.saturating_add(1), 0),
        };
        key = in_partition_key(topic, partition, 0);
    }
}

fn check_name(name: &str) -> Result<()> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if (1..=MAX_TOPIC_NAME_BYTES).contains(&name.len())
        && name.bytes().all(allowed)
        && name != "."
        && name != ".."
    {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::InvalidArgument,
        format!(
            "{name:?} cannot be the name of a topic: use 1 to {MAX_TOPIC_NAME_BYTES} ASCII letters, \
             digits, '.', '_' and '-'"
        ),
    ))
}

fn check_settings(settings: &TopicSettings) -> Result<()> {
    let refuse = |text: String| Err(Error::new(ErrorKind::InvalidArgument, text));
    if !(1..=MAX_PARTITIONS).contains(&settings.partitions) {
        return refuse(format!(
            "a topic has 1 to {MAX_PARTITIONS} partitions, not {}",
            settings.partitions
        ));
    }
    let longest = super::batch::MAX_RECORD_BYTES as u64;
    if !(1..=longest).contains(&settings.max_record_bytes) {
        return refuse(format!(
            "max_record_bytes is {}, but must lie between 1 and {longest}",
            settings.max_record_bytes
        ));
    }
    Ok(())
}
