//! Power loss with any subset of the unsynced sectors kept: the store is exactly the old or the new.
//!
//! LMDB writes the pages of a transaction, syncs them, then writes the meta page. So between the old
//! file and the new one lie all files that have some of the new sectors and the old meta pages; after
//! the sync, only the meta page's one sector may be old or new.

mod store_support;

use std::path::Path;

use onceflow_core::store::{ChunkKey, RecordStore, Store, verify};
use store_support::*;

const SECTOR: usize = 512;
const META_PAGES: usize = 2 * 4096;

struct Moment {
    image: Image,
    content: Content,
    epoch: u64,
}

fn moment(store: &Store, state: &Path, keys: &[ChunkKey]) -> Moment {
    Moment {
        image: Image::of(state),
        content: Content::read(store, keys).unwrap(),
        epoch: store.job_epoch(),
    }
}

#[test]
fn every_subset_of_unsynced_sectors_is_the_old_store() {
    let root = scratch();
    let (state, torn) = (root.path().join("state"), root.path().join("torn"));
    let store = open(&state);
    let lengths = [300, 9000, 40_000];
    let mut keys: Vec<ChunkKey> = Vec::new();
    let mut kept: Vec<u64> = Vec::new();
    let mut random = Random::new(1);
    let mut before = moment(&store, &state, &keys);
    let mut partial = 0;
    for round in 0..40 {
        // What a transaction may do, in turn.
        if round % 4 == 3 {
            store.put_note(NOTES[round % 3], &vec![round as u8; round * 50]).unwrap();
        } else {
            let dropped: Vec<u64> = if kept.len() > 3 { vec![kept.remove(0)] } else { vec![] };
            let gone: Vec<ChunkKey> =
                keys.iter().copied().filter(|key| dropped.contains(&key.checkpoint)).collect();
            let id = commit(&store, &lengths, &dropped, &gone).unwrap();
            kept.push(id);
            keys.extend(chunks(id, &lengths).into_iter().map(|(key, _)| key));
        }
        let after = moment(&store, &state, &keys);
        let old = Content { ..before.content.clone() };
        for case in 0..12 {
            let mut image = before.image.clone();
            // The file grows first, with zeros where nothing was written yet.
            image.data.resize(after.image.data.len(), 0);
            let keep = [1, 2, 4, 16][case % 4];
            let mut changed = 0;
            for at in (META_PAGES..image.data.len()).step_by(SECTOR) {
                let sector = at..at + SECTOR;
                if image.data[sector.clone()] != after.image.data[sector.clone()]
                    && (keep == 1 || random.below(keep) == 0)
                {
                    image.data[sector.clone()].copy_from_slice(&after.image.data[sector]);
                    changed += 1;
                }
            }
            partial += usize::from(changed > 0);
            if case == 0 {
                // Everything but the length.
                let length = before.image.data.len();
                image.data.truncate(length);
            }
            image.write(&torn);
            expect(&torn, &old, before.epoch, &keys);
        }
        // After the sync all pages are there, and the meta page is one sector.
        let mut image = after.image.clone();
        image.manifest.clone_from(&before.image.manifest);
        image.write(&torn);
        expect(&torn, &after.content, after.epoch, &keys);
        before = after;
    }
    assert!(partial > 400);
}

/// Opens the store and finds exactly this.
fn expect(state: &Path, content: &Content, epoch: u64, keys: &[ChunkKey]) {
    let report = verify(state).unwrap();
    assert_eq!(report.damage, []);
    let store = open(state);
    assert_eq!(store.job_epoch(), epoch + 1);
    let found = Content::read(&store, keys).unwrap();
    assert_eq!(found.first_wrong(content), None);
    assert_eq!(found.records, content.records);
    assert_eq!(found.notes, content.notes);
    for (key, bytes) in &content.chunks {
        assert_eq!(&found.chunks[key], bytes);
    }
}
