//! Values in their parts, the head and the records, inside a transaction.

use std::collections::BTreeMap;
use std::path::Path;

use super::Damage;
use super::layout::{
    CheckpointRecord, ChunkKey, Database, HEAD_KEY, Head, MAX_VALUE_BYTES, Tally, chunk_key,
    parse_record_key, record_key,
};
use crate::environment::corrupt;
use crate::environment::lmdb::{Failure, Read, Transaction};
use crate::environment::value::{MAX_PART_BYTES, open_value};
use crate::{Error, ErrorKind, Result};

/// Names the value that a put refused.
pub(super) fn named(failure: Failure, what: impl FnOnce() -> String) -> Failure {
    if failure.error.kind() == ErrorKind::InvalidArgument {
        let text = format!("{} {}", what(), failure.error);
        return Error::new(ErrorKind::InvalidArgument, text).into();
    }
    failure
}

/// Puts a value that must not exist yet, in parts; returns its digest.
pub(super) fn put_new<const N: usize>(
    txn: &mut Transaction<'_>,
    database: Database,
    payload: &[u8],
    key: impl Fn(u32) -> [u8; N],
) -> std::result::Result<Tally, Failure> {
    if txn.get(database, &key(0))?.is_some() {
        let text = "exists already; use a new checkpoint id";
        return Err(Error::new(ErrorKind::InvalidArgument, text).into());
    }
    let parts = payload.len().div_ceil(MAX_PART_BYTES).max(1);
    let mut digest = Tally::default();
    for number in 0..parts {
        let start = number * MAX_PART_BYTES;
        let end = payload.len().min(start + MAX_PART_BYTES);
        let part = payload.get(start..end).unwrap_or_default();
        digest.add(&txn.put(database, &key(number as u32), part, parts as u32)?);
    }
    Ok(digest)
}

/// Deletes records and chunks with all their parts; those that are gone already are no error.
pub(super) fn delete(
    txn: &mut Transaction<'_>,
    head: &mut Head,
    records: &[u64],
    chunks: &[ChunkKey],
) -> std::result::Result<(), Failure> {
    if records.is_empty() && chunks.is_empty() {
        return Ok(());
    }
    crate::crash_point!("gc.pre_delete");
    for id in records {
        delete_parts(txn, Database::Records, |part| record_key(*id, part))?;
        head.records.remove(id);
    }
    for key in chunks {
        delete_parts(txn, Database::Chunks, |part| chunk_key(*key, part))?;
        crate::crash_point!("gc.mid_delete");
    }
    Ok(())
}

pub(super) fn delete_parts<const N: usize>(
    txn: &mut Transaction<'_>,
    database: Database,
    key: impl Fn(u32) -> [u8; N],
) -> std::result::Result<(), Failure> {
    let mut part = 0;
    while txn.delete(database, &key(part))? {
        part += 1;
    }
    Ok(())
}

pub(super) fn put_head(
    txn: &mut Transaction<'_>,
    head: &mut Head,
) -> std::result::Result<(), Failure> {
    head.transaction = txn.transaction();
    txn.put(Database::Meta, HEAD_KEY, &head.encode()?, 1)?;
    Ok(())
}

/// Decodes the head.
pub(super) fn head_of(value: Option<&[u8]>) -> Result<Head> {
    let damaged = |reason: String| corrupt(format!("the store's head is damaged: {reason}"));
    let value = value.ok_or_else(|| damaged("it is missing".to_owned()))?;
    let (payload, _) = open_value(Database::Meta, HEAD_KEY, value).map_err(damaged)?;
    Head::decode(payload).map_err(damaged)
}

pub(super) fn read_head(txn: &Read<'_>) -> Result<Head> {
    head_of(txn.get(Database::Meta, HEAD_KEY)?)
}

/// A value in one piece.
pub(super) enum Whole<'t> {
    /// One part, as it lies in the map.
    Mapped(&'t [u8]),
    Joined(Vec<u8>),
}

impl Whole<'_> {
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Mapped(bytes) => bytes,
            Self::Joined(bytes) => bytes,
        }
    }
}

/// Why a value cannot be read in one piece.
#[derive(Debug)]
pub(super) enum Problem {
    Missing,
    Damaged(String),
    Other(Error),
}

impl Problem {
    pub(super) fn into_error(self, directory: &Path, key: &ChunkKey) -> Error {
        let directory = directory.display();
        match self {
            Self::Missing => corrupt(format!("{directory}: {key} is missing")),
            Self::Damaged(reason) => corrupt(format!("{directory}: {key} is damaged: {reason}")),
            Self::Other(error) => error,
        }
    }
}

pub(super) fn read_parts<'t, const N: usize>(
    txn: &'t Read<'_>,
    database: Database,
    key: impl Fn(u32) -> [u8; N],
) -> std::result::Result<Whole<'t>, Problem> {
    let part = |number: u32| {
        let key = key(number);
        match txn.get(database, &key) {
            Ok(Some(value)) => open_value(database, &key, value)
                .map_err(|reason| Problem::Damaged(format!("part {number}: {reason}"))),
            Ok(None) => Err(Problem::Missing),
            Err(error) => Err(Problem::Other(error)),
        }
    };
    let (first, parts) = part(0)?;
    if parts == 1 {
        return Ok(Whole::Mapped(first));
    }
    let mut joined = first.to_vec();
    for number in 1..parts {
        let (bytes, said) = match part(number) {
            Err(Problem::Missing) => {
                let text = format!("part {number} of {parts} is missing");
                return Err(Problem::Damaged(text));
            }
            other => other?,
        };
        if said != parts || joined.len() > MAX_VALUE_BYTES {
            return Err(Problem::Damaged(format!("part {number} belongs to another value")));
        }
        joined.extend_from_slice(bytes);
    }
    Ok(Whole::Joined(joined))
}

/// Reads the records that the head names, and reports what is stored besides them.
pub(super) fn read_records(
    txn: &Read<'_>,
) -> Result<Vec<std::result::Result<CheckpointRecord, Damage>>> {
    let head = read_head(txn)?;
    let mut digests: BTreeMap<u64, Tally> = BTreeMap::new();
    let mut strays = Vec::new();
    for entry in txn.entries(Database::Records)? {
        let (key, value) = entry?;
        match parse_record_key(key) {
            Some((id, _)) if head.records.contains_key(&id) => {
                digests.entry(id).or_default().add(value);
            }
            _ => strays.push(Err(Damage {
                checkpoint: None,
                reason: format!("a stored record with the key {key:02x?} is that of no checkpoint"),
            })),
        }
    }
    let mut records = Vec::new();
    for (&id, &expected) in &head.records {
        let record = match read_parts(txn, Database::Records, |part| record_key(id, part)) {
            Ok(whole) => CheckpointRecord::decode(whole.bytes()),
            Err(Problem::Damaged(reason)) => Err(reason),
            Err(Problem::Missing) => Err("it is missing".to_owned()),
            Err(Problem::Other(error)) => return Err(error),
        };
        let found = digests.get(&id).map_or(0, |digest| digest.sum);
        let record = record.and_then(|record| match record.id {
            _ if found != expected => {
                Err(format!("it is another one: its digest is {found:016x}, not {expected:016x}"))
            }
            said if said != id => Err(format!("it says that it is checkpoint {said}")),
            _ => Ok(record),
        });
        records.push(record.map_err(|reason| Damage {
            checkpoint: Some(id),
            reason: format!("the record of checkpoint {id}: {reason}"),
        }));
    }
    records.extend(strays);
    Ok(records)
}
