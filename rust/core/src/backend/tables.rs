//! All tables of a job, with what the next decision record says of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{SharedDeduplicator, SharedTable};
use crate::snapshot::{Chain, Rotation};
use crate::state::{Bytes, Keys, Op, Operand, Schema, Table, Update};
use crate::store::TableManifest;
use crate::{Error, ErrorKind, Result};

/// A table and its chain as of the newest checkpoint.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) id: u32,
    pub(super) name: String,
    pub(super) schema: Schema,
    pub(super) table: SharedTable,
    pub(super) deduplicator: Option<SharedDeduplicator>,
    pub(super) rows: u64,
    pub(super) chain: Chain,
    pub(super) rotation: Rotation,
}

impl Entry {
    pub(super) fn restored(manifest: &TableManifest, table: Table) -> Self {
        Self {
            id: manifest.id,
            name: manifest.name.clone(),
            schema: manifest.schema.clone(),
            table: Arc::new(Mutex::new(table)),
            deduplicator: None,
            rows: manifest.rows,
            chain: manifest.chain.clone(),
            rotation: Rotation {
                next_group: manifest.next_base_group,
                credit_rows: manifest.base_credit_rows,
            },
        }
    }

    pub(super) fn manifest(&self) -> TableManifest {
        TableManifest {
            id: self.id,
            name: self.name.clone(),
            schema: self.schema.clone(),
            rows: self.rows,
            chain: self.chain.clone(),
            next_base_group: self.rotation.next_group,
            base_credit_rows: self.rotation.credit_rows,
        }
    }

    /// Writes what changed in the deduplicator into the table.
    pub(super) fn collect_participant(&self, table: &mut Table) -> Result<()> {
        let Some(deduplicator) = &self.deduplicator else { return Ok(()) };
        let mut deduplicator = deduplicator.lock();
        let changes = deduplicator.changes();
        table.delete(Keys::I64(changes.removed()))?;
        table.update(
            Keys::I64(changes.producer_ids()),
            &[Update {
                column: 0,
                op: Op::Last,
                operand: Operand::Bytes(Bytes { offsets: changes.offsets(), data: changes.data() }),
            }],
        )?;
        deduplicator.mark_clean();
        Ok(())
    }
}

/// Tables by name.
#[derive(Default)]
pub(super) struct Tables {
    entries: BTreeMap<String, Entry>,
    /// Ids are never used twice, also not those of dropped tables: old chunks carry them.
    next_id: u32,
}

impl Tables {
    pub(super) fn new(entries: Vec<Entry>, next_id: u32) -> Self {
        let entries = entries.into_iter().map(|entry| (entry.name.clone(), entry)).collect();
        Self { entries, next_id }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    pub(super) fn get_mut(&mut self, id: u32) -> Option<&mut Entry> {
        self.entries.values_mut().find(|entry| entry.id == id)
    }

    pub(super) fn get_or_create(
        &mut self,
        name: &str,
        schema: &Schema,
        key_groups: u16,
        max_bytes: usize,
    ) -> Result<SharedTable> {
        if let Some(entry) = self.entries.get(name) {
            if entry.schema == *schema {
                return Ok(Arc::clone(&entry.table));
            }
            return Err(Error::new(
                ErrorKind::SchemaMismatch,
                format!(
                    "table {name:?} exists with {}, and {schema} was asked for; use another name, \
                     or drop the table first",
                    entry.schema
                ),
            ));
        }
        let table = Arc::new(Mutex::new(Table::new(name, schema.clone(), key_groups, max_bytes)?));
        let entry = Entry {
            id: self.next_id,
            name: name.to_owned(),
            schema: schema.clone(),
            table: Arc::clone(&table),
            deduplicator: None,
            rows: 0,
            chain: Chain::default(),
            rotation: Rotation::default(),
        };
        self.next_id += 1;
        self.entries.insert(name.to_owned(), entry);
        Ok(table)
    }

    pub(super) fn remove(&mut self, name: &str) -> bool {
        let Some(entry) = self.entries.remove(name) else { return false };
        // For handles of it that somebody still has.
        entry.table.lock().retire();
        true
    }

    pub(super) fn deduplicator(&self, table: &str) -> Option<SharedDeduplicator> {
        self.entries.get(table)?.deduplicator.clone()
    }

    /// From now on the deduplicator's changes go into this table at each freeze.
    pub(super) fn join(&mut self, table: &str, deduplicator: SharedDeduplicator) {
        if let Some(entry) = self.entries.get_mut(table) {
            entry.deduplicator = Some(deduplicator);
        }
    }
}
