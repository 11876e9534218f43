//! Values in their parts, and the head, inside a transaction.

use std::path::Path;

use super::chunks::ChunkKey;
use super::layout::{Database, HEAD_KEY, Head, MAX_VALUE_BYTES, Tally};
use crate::environment::corrupt;
use crate::environment::lmdb::{Failure, Read, Transaction};
use crate::environment::value::{MAX_PART_BYTES, open_value};
use crate::{Error, ErrorKind, Result};

/// Puts a value in parts; returns its digest.
pub(super) fn put_parts<const N: usize>(
    txn: &mut Transaction<'_>,
    database: Database,
    payload: &[u8],
    key: impl Fn(u32) -> [u8; N],
) -> std::result::Result<Tally, Failure> {
    let mut digest = Tally::default();
    for (number, part, parts) in parts_of(payload) {
        digest.add(&txn.put(database, &key(number), part, parts)?);
    }
    Ok(digest)
}

/// True if just this value lies in these parts.
pub(super) fn holds<const N: usize>(
    txn: &Transaction<'_>,
    database: Database,
    payload: &[u8],
    key: impl Fn(u32) -> [u8; N],
) -> std::result::Result<bool, Failure> {
    for (number, part, parts) in parts_of(payload) {
        let key = key(number);
        let stored = txn.get(database, &key)?.map(|value| open_value(database, &key, value));
        if stored != Some(Ok((part, parts))) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Number and bytes of each part of a value, and how many there are; an empty one has one part.
fn parts_of(payload: &[u8]) -> impl Iterator<Item = (u32, &[u8], u32)> {
    let parts = payload.len().div_ceil(MAX_PART_BYTES).max(1);
    (0..parts).map(move |number| {
        let start = number * MAX_PART_BYTES;
        let end = payload.len().min(start + MAX_PART_BYTES);
        (number as u32, payload.get(start..end).unwrap_or_default(), parts as u32)
    })
}

pub(super) fn refused(what: &str, why: &str) -> Failure {
    Error::new(ErrorKind::InvalidArgument, format!("{what} {why}")).into()
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

/// Refuses what the store does not take, before anything is written.
pub(super) fn check_length(what: &str, length: usize) -> Result<()> {
    if length <= MAX_VALUE_BYTES {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::CapacityExceeded,
        format!("{what} has {length} bytes, but the store takes {MAX_VALUE_BYTES} at most"),
    )
    .with_bound(None, length as u64, MAX_VALUE_BYTES as u64))
}
