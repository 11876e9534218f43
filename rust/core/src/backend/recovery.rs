//! From records and chunks back to tables; and which records and chunks exist.

use std::collections::{BTreeMap, BTreeSet};

use super::lineage::{Lineages, number_above};
use super::runs::Runs;
use super::tables::{Entry, Tables};
use super::{BackendOptions, Recovery, Restore};
use crate::snapshot::ChunkKind;
use crate::state::Table;
use crate::store::{
    CheckpointRecord, ChunkKey, ChunkStore, Damage, RecordStore, Store, TableManifest,
};
use crate::{Detail, Error, ErrorKind, Result};

/// The checkpoints in the store, and the chunks that each refers to.
#[derive(Default)]
pub(super) struct History {
    checkpoints: BTreeMap<u64, Known>,
    lineages: Lineages,
}

struct Known {
    savepoint: bool,
    /// Unreadable, or its state is: it does not count as a checkpoint that is retained.
    damaged: bool,
    chunks: BTreeSet<ChunkKey>,
}

impl History {
    pub(super) fn add(&mut self, record: &CheckpointRecord) {
        let known = Known {
            savepoint: record.savepoint.is_some(),
            damaged: false,
            chunks: chunks_of(record).collect(),
        };
        self.checkpoints.insert(record.id, known);
    }

    /// Chunks that checkpoints refer to; one that several refer to counts for each.
    pub(super) fn references(&self) -> usize {
        self.checkpoints.values().map(|known| known.chunks.len()).sum()
    }

    /// True without damaged checkpoints.
    fn is_sound(&self) -> bool {
        self.checkpoints.values().all(|known| !known.damaged)
    }

    /// From now on these choices decide what the job resumes from.
    pub(super) fn follow(&mut self, lineages: Lineages) {
        self.lineages = lineages;
    }

    /// The newest sound checkpoint of the present lineage's history.
    pub(super) fn newest(&self) -> Option<u64> {
        self.checkpoints
            .iter()
            .rev()
            .find(|(id, known)| !known.damaged && self.lineages.includes(**id))
            .map(|(id, _)| *id)
    }

    pub(super) fn remove(&mut self, id: u64) {
        self.checkpoints.remove(&id);
    }

    /// Which records and chunks go when `new` comes and `retain` complete ones are kept.
    pub(super) fn superseded(
        &self,
        new: &CheckpointRecord,
        retain: usize,
    ) -> (Vec<u64>, Vec<ChunkKey>) {
        // Savepoints are kept besides those that are retained, also the one that comes now.
        let mut complete = usize::from(new.savepoint.is_none());
        let mut dropped = Vec::new();
        for (id, known) in self.checkpoints.iter().rev() {
            if known.savepoint && !known.damaged {
                continue;
            }
            // A damaged one, or one that was left, goes when enough complete ones are newer.
            if complete >= retain {
                dropped.push(*id);
            } else if !known.damaged && self.lineages.includes(*id) {
                complete += 1;
            }
        }
        let kept: BTreeSet<ChunkKey> = chunks_of(new).collect();
        let chunks = self.only_in(&dropped, kept);
        (dropped, chunks)
    }

    /// The chunks that go with one checkpoint, or why it cannot go.
    pub(super) fn without(&self, id: u64) -> Result<Vec<ChunkKey>> {
        if !self.checkpoints.contains_key(&id) {
            let known: Vec<&u64> = self.checkpoints.keys().collect();
            return Err(Error::new(
                ErrorKind::CheckpointNotFound,
                format!("no checkpoint {id}; there are {known:?}"),
            )
            .with(Detail::Checkpoint { id }));
        }
        if self.newest() == Some(id) {
            return Err(Error::new(
                ErrorKind::CheckpointState,
                format!("checkpoint {id} is the newest complete one, which the job resumes from"),
            )
            .with(Detail::Checkpoint { id }));
        }
        Ok(self.only_in(&[id], BTreeSet::new()))
    }

    /// Chunks that only these checkpoints refer to, and that are not in `kept`.
    fn only_in(&self, dropped: &[u64], mut kept: BTreeSet<ChunkKey>) -> Vec<ChunkKey> {
        let mut candidates = BTreeSet::new();
        for (id, known) in &self.checkpoints {
            let set = if dropped.contains(id) { &mut candidates } else { &mut kept };
            set.extend(known.chunks.iter().copied());
        }
        candidates.difference(&kept).copied().collect()
    }
}

fn chunks_of(record: &CheckpointRecord) -> impl Iterator<Item = ChunkKey> + '_ {
    record.tables.iter().flat_map(|table| {
        table.chain.chunks.iter().map(|chunk| ChunkKey {
            table: table.id,
            checkpoint: chunk.checkpoint,
            sequence: chunk.sequence,
        })
    })
}

/// Everything that opening makes.
pub(super) struct Restored {
    pub(super) recovery: Recovery,
    pub(super) tables: Tables,
    pub(super) history: History,
    pub(super) lineage: u64,
    pub(super) runs: Runs,
    /// A choice that begins the lineage and is not durable yet.
    pub(super) choice: Option<Lineages>,
}

/// Restores what the options ask for.
pub(super) fn restore(
    store: &Store,
    options: &BackendOptions,
    key_groups: u16,
) -> Result<Restored> {
    // One snapshot for all: beside a running owner a record's chunks must not be collected between
    // two reads.
    let snapshot = store.snapshot()?;
    let records = snapshot.records()?;
    let lineages = Lineages::read(&snapshot)?;
    let runs = Runs::read(&snapshot)?;
    let mut history = History { lineages: lineages.clone(), ..History::default() };
    let mut recovery = Recovery::default();
    for record in &records {
        match record {
            Ok(record) => history.add(record),
            Err(damage) => {
                if let Some(id) = damage.checkpoint {
                    let known =
                        Known { savepoint: false, damaged: true, chunks: BTreeSet::default() };
                    history.checkpoints.insert(id, known);
                }
            }
        }
    }
    let newest_lineage = records.iter().flatten().map(|record| record.lineage).max();
    let ids = || records.iter().filter_map(id_of);
    let choose = |base: u64, lineage: u64| {
        let choice = lineages.split(lineage, base, ids().max().unwrap_or(0));
        Some(choice.pruned(ids().min().unwrap_or(0)))
    };
    let mut choice = None;
    let next_id = records
        .iter()
        .flatten()
        .flat_map(|record| record.tables.iter().map(|table| table.id + 1))
        .max()
        .unwrap_or(0);
    let mut lineage = newest_lineage.unwrap_or(1).max(lineages.newest());
    let mut entries = Vec::new();
    match options.restore {
        Restore::Nothing => {
            if records.iter().any(|record| is_history(record, &lineages)) {
                lineage = number_above(lineage, options.lineage);
                choice = choose(0, lineage);
            }
        }
        Restore::Checkpoint(id) => {
            let record = find(&records, id)?;
            entries = load(&snapshot, record, options, key_groups, &mut recovery)?;
            lineage = number_above(lineage, options.lineage);
            choice = choose(id, lineage);
            recovery.restored = Some(record.clone());
        }
        Restore::Newest => {
            for record in records.iter().rev().filter(|record| is_history(record, &lineages)) {
                let record = match record {
                    Ok(record) => record,
                    Err(damage) => {
                        recovery.damage.push(damage.clone());
                        continue;
                    }
                };
                match load(&snapshot, record, options, key_groups, &mut recovery) {
                    Ok(loaded) => {
                        entries = loaded;
                        recovery.restored = Some(record.clone());
                        break;
                    }
                    Err(error) if error.kind() == ErrorKind::StoreCorrupt => {
                        recovery.damage.push(Damage {
                            checkpoint: Some(record.id),
                            reason: error.to_string(),
                        });
                        recovery.decided_after.insert(0, record.clone());
                        if let Some(known) = history.checkpoints.get_mut(&record.id) {
                            known.damaged = true;
                        }
                    }
                    Err(error) => return Err(error),
                }
            }
            if recovery.restored.is_none() && !recovery.damage.is_empty() {
                let reasons: Vec<&str> =
                    recovery.damage.iter().map(|damage| damage.reason.as_str()).collect();
                return Err(Error::new(
                    ErrorKind::StoreCorrupt,
                    format!(
                        "{}: none of its {} checkpoints can be restored ({}); use a backup, or \
                         start over",
                        store.path().display(),
                        recovery.damage.len(),
                        reasons.join("; ")
                    ),
                ));
            }
        }
    }
    if let (Some(restored), false) = (&recovery.restored, options.store.read_only) {
        check_descent(store, restored, &recovery.decided_after, &lineages)?;
    }
    drop(snapshot);
    crate::crash_point!("restore.loaded");
    if !options.store.read_only && history.is_sound() {
        collect_orphans(store, &history)?;
    }
    let tables = Tables::new(entries, next_id);
    Ok(Restored { recovery, tables, history, lineage, runs, choice })
}

/// Which checkpoint a record is of, as far as it is known.
fn id_of(record: &std::result::Result<CheckpointRecord, Damage>) -> Option<u64> {
    match record {
        Ok(record) => Some(record.id),
        Err(damage) => damage.checkpoint,
    }
}

/// False for one that the job has left.
fn is_history(record: &std::result::Result<CheckpointRecord, Damage>, lineages: &Lineages) -> bool {
    id_of(record).is_none_or(|id| lineages.includes(id))
}

fn find(
    records: &[std::result::Result<CheckpointRecord, Damage>],
    id: u64,
) -> Result<&CheckpointRecord> {
    for record in records {
        match record {
            Ok(record) if record.id == id => return Ok(record),
            Err(damage) if damage.checkpoint == Some(id) => {
                return Err(Error::new(ErrorKind::StoreCorrupt, damage.reason.clone()));
            }
            _ => {}
        }
    }
    let known: Vec<u64> = records.iter().flatten().map(|record| record.id).collect();
    Err(Error::new(
        ErrorKind::CheckpointNotFound,
        format!("no checkpoint {id}; there are {known:?}"),
    )
    .with(Detail::Checkpoint { id }))
}

/// Chunks of commits that never came to a record cannot exist; those of records that were dropped
/// while damage was around can.
fn collect_orphans(store: &(impl ChunkStore + RecordStore), history: &History) -> Result<()> {
    let known: BTreeSet<ChunkKey> =
        history.checkpoints.values().flat_map(|known| known.chunks.iter().copied()).collect();
    let orphans: Vec<ChunkKey> =
        store.chunk_keys()?.into_iter().filter(|key| !known.contains(key)).collect();
    if orphans.is_empty() { Ok(()) } else { store.collect(&[], &orphans) }
}

/// A directory of a version that kept no choices does not say what a lineage went on from.
fn check_descent(
    store: &Store,
    restored: &CheckpointRecord,
    decided_after: &[CheckpointRecord],
    lineages: &Lineages,
) -> Result<()> {
    let unknown = |record: &&CheckpointRecord| {
        record.lineage != restored.lineage && !lineages.knows(record.lineage)
    };
    if decided_after.iter().find(unknown).is_none() {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::StoreCorrupt,
        format!(
            "{}: no exact recovery is possible: every checkpoint since the job went on from another \
             one, or afresh, is damaged, and checkpoint {} may not be part of its history. Start \
             over, or go on from a checkpoint of your choice: say which with resume_from",
            store.path().display(),
            restored.id
        ),
    ))
}

fn load(
    chunks: &impl ChunkStore,
    record: &CheckpointRecord,
    options: &BackendOptions,
    key_groups: u16,
    recovery: &mut Recovery,
) -> Result<Vec<Entry>> {
    let (mut rows, mut bytes) = (0, 0);
    let mut entries = Vec::new();
    for manifest in &record.tables {
        let table = load_table(chunks, manifest, options, key_groups, &mut bytes)?;
        rows += table.len() as u64;
        entries.push(Entry::restored(manifest, table));
    }
    recovery.rows = rows;
    recovery.bytes = bytes;
    Ok(entries)
}

fn load_table(
    chunks: &impl ChunkStore,
    manifest: &TableManifest,
    options: &BackendOptions,
    key_groups: u16,
    bytes: &mut u64,
) -> Result<Table> {
    let corrupt = |why: String| {
        Error::new(ErrorKind::StoreCorrupt, format!("table {:?}: {why}", manifest.name))
    };
    let mut table =
        Table::new(&manifest.name, manifest.schema.clone(), key_groups, options.max_state_bytes)
            .map_err(|error| corrupt(error.to_string()))?;
    let chain = &manifest.chain;
    let bases = chain.newest_bases(key_groups);
    let all = options.groups == (0..key_groups);
    let announced: u64 = chain.chunks.iter().map(|chunk| chunk.rows).sum();
    if all && manifest.rows <= announced {
        table.reserve(manifest.rows as usize)?;
    }
    let mut order: Vec<usize> = (0..chain.chunks.len()).collect();
    order.sort_by_key(|index| {
        let chunk = &chain.chunks[*index];
        (chunk.kind == ChunkKind::Delta, chunk.last_checkpoint)
    });
    for index in order {
        let chunk = &chain.chunks[index];
        let needed = |group: u16| {
            options.groups.contains(&group)
                && chunk.groups().contains(&group)
                && chunk.counts_for(group, &bases)
        };
        if !chunk.groups().any(needed) {
            continue;
        }
        let key =
            ChunkKey { table: manifest.id, checkpoint: chunk.checkpoint, sequence: chunk.sequence };
        chunks.read_chunk(key, |content| {
            *bytes += content.len() as u64;
            table.apply_chunk(content, &needed)
        })?;
    }
    if all && table.len() as u64 != manifest.rows {
        return Err(corrupt(format!(
            "{} rows were restored and the record says {}",
            table.len(),
            manifest.rows
        )));
    }
    Ok(table)
}
