//! Which partition a record goes to.

use std::collections::BTreeMap;

use super::records::Records;
use crate::hash::hash_bytes;
use crate::{Error, ErrorKind, Result};

/// How the partitions of records are chosen.
#[derive(Debug, Clone, Copy)]
pub enum Partitioning<'a> {
    /// All go to this one.
    One(u32),
    /// One a record.
    Each(&'a [u32]),
    /// By the key ([`partition_of`]); records without one go to a partition that changes with
    /// each call.
    ByKey,
}

/// The partition of a key: the same in every process and version.
pub fn partition_of(key: &[u8], partitions: u32) -> u32 {
    (((hash_bytes(key) >> 32) * u64::from(partitions)) >> 32) as u32
}

/// Rows by partition, each in order; `None` as rows: all of them.
pub(super) fn split(
    records: &Records<'_>,
    partitioning: Partitioning<'_>,
    partitions: u32,
    unkeyed: u32,
) -> Result<Vec<(u32, Option<Vec<u32>>)>> {
    let each: Box<dyn Fn(usize) -> u32> = match partitioning {
        Partitioning::One(partition) => return Ok(vec![(partition, None)]),
        Partitioning::Each(each) if each.len() != records.len() => {
            let text = format!("{} partitions for {} records", each.len(), records.len());
            return Err(Error::new(ErrorKind::LengthMismatch, text));
        }
        Partitioning::Each(each) => Box::new(|row| each[row]),
        Partitioning::ByKey => match records.keys {
            None => return Ok(vec![(unkeyed, None)]),
            Some(_) if partitions == 1 => return Ok(vec![(0, None)]),
            Some(keys) => Box::new(move |row| {
                keys.get(row).map_or(unkeyed, |key| partition_of(key, partitions))
            }),
        },
    };
    if u32::try_from(records.len()).is_err() {
        let text = format!("{} records in one call; give fewer", records.len());
        return Err(Error::new(ErrorKind::InvalidArgument, text));
    }
    let mut rows: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for row in 0..records.len() {
        rows.entry(each(row)).or_default().push(row as u32);
    }
    Ok(rows.into_iter().map(|(partition, rows)| (partition, Some(rows))).collect())
}

#[cfg(test)]
mod tests {
    use super::partition_of;

    /// Pins the hash: keys must not move to other partitions in a later version.
    #[test]
    fn keys_have_the_partitions_of_the_first_version() {
        let found: Vec<u32> = ["", "a", "b", "key-17", "é"]
            .iter()
            .map(|key| partition_of(key.as_bytes(), 12))
            .collect();
        assert_eq!(found, [2, 10, 4, 2, 11]);
    }
}
