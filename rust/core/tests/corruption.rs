//! 2,000 damaged stores: each answer is right or a typed error; no signal, nothing silently wrong.
//!
//! Every case is a number. It is opened, read in full, written to and read again in a child process
//! that works through many cases and says which one it begins, so that a signal has an address.

mod store_support;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;

use onceflow_core::store::{ChunkKey, ChunkStore, RecordStore, Store, StoreOptions, verify};
use onceflow_core::{ErrorKind, Result};
use store_support::*;

/// How many cases, unless `ONCEFLOW_TEST_CASES` says otherwise (soaks).
const CASES: u64 = 2000;
const SECTOR: usize = 512;
const PAGE: usize = 4096;

/// What the damaged stores are made from: the store now, some transactions ago, and another one.
struct Base {
    now: Image,
    /// The data file with the manifest of the time when it was opened last.
    unclosed: Image,
    before: Image,
    foreign: Image,
    right: Content,
    keys: Vec<ChunkKey>,
}

fn build(root: &Path) -> Base {
    let state = root.join("base");
    let store = open(&state);
    let lengths = [300, 20_000, 3000, 9000];
    let mut kept: Vec<(u64, Vec<ChunkKey>)> = Vec::new();
    let mut before = None;
    for round in 0..40 {
        let drop = if kept.len() > 3 { Some(kept.remove(0)) } else { None };
        let (records, chunks_) = drop.map_or((vec![], vec![]), |(id, keys)| (vec![id], keys));
        let id = commit(&store, &lengths, &records, &chunks_).unwrap();
        kept.push((id, chunks(id, &lengths).into_iter().map(|(key, _)| key).collect()));
        store.put_note(NOTES[round % 2], format!("applied {id}").as_bytes()).unwrap();
        store.put_note("sink/long", &vec![round as u8; 3000]).unwrap();
        if round == 30 {
            before = Some(Image::of(&state));
        }
    }
    let unclosed = Image::of(&state);
    let keys: Vec<ChunkKey> = kept.iter().flat_map(|(_, keys)| keys.clone()).collect();
    let right = Content::read(&store, &keys).unwrap();
    store.close().unwrap();

    let other = StoreOptions { store_id: 99, ..options() };
    let store = Store::open(&root.join("foreign"), &other).unwrap();
    for _ in 0..60 {
        commit(&store, &lengths, &[], &[]).unwrap();
    }
    store.close().unwrap();
    Base {
        now: Image::of(&state),
        unclosed,
        before: before.unwrap(),
        foreign: Image::of(&root.join("foreign")),
        right,
        keys,
    }
}

/// Pages of the newest snapshot's trees and meta pages: where damage matters most.
fn structure_pages(data: &[u8]) -> Vec<usize> {
    let flags = |page: &[u8]| u16::from_le_bytes([page[10], page[11]]);
    let number = |page: &[u8]| u64::from_le_bytes(page[..8].try_into().unwrap()) as usize;
    data.chunks_exact(PAGE)
        .enumerate()
        .filter(|(at, page)| number(page) == *at && matches!(flags(page), 1 | 2 | 4 | 8))
        .map(|(at, _)| at)
        .collect()
}

/// Damages an image; returns what was done.
fn mutate(case: u64, base: &Base) -> (Image, String) {
    let mut random = Random::new(case);
    let r = &mut random;
    let mut image = base.now.clone();
    let length = image.data.len();
    let pages = structure_pages(&image.data);
    let structure = pages[r.below(pages.len())] * PAGE;
    let (sectors, all_pages) = (length / SECTOR, length / PAGE);
    let what = match case % 20 {
        0 => {
            let bit = r.below(length * 8);
            image.data[bit / 8] ^= 1 << (bit % 8);
            format!("bit {bit} flipped")
        }
        1 => {
            let bit = structure * 8 + r.below(32 * 8);
            image.data[bit / 8] ^= 1 << (bit % 8);
            format!("bit {} of byte {} flipped, in a page header", bit % 8, bit / 8)
        }
        2 => {
            let bit = structure * 8 + r.below(PAGE * 8);
            image.data[bit / 8] ^= 1 << (bit % 8);
            format!("bit {} of byte {} flipped, in a page", bit % 8, bit / 8)
        }
        3 => {
            let bit = r.below(2) * PAGE * 8 + r.below(152 * 8);
            image.data[bit / 8] ^= 1 << (bit % 8);
            format!("bit {} of byte {} flipped, in a meta page", bit % 8, bit / 8)
        }
        4 => {
            let (at, width) = (structure + 2 * r.below(PAGE / 2 - 4), [2, 4, 8][r.below(3)]);
            let extremes = [0, 1, u64::MAX, r.next(), all_pages as u64, r.next() % 4096];
            let value = extremes[r.below(extremes.len())].to_le_bytes();
            image.data[at..at + width].copy_from_slice(&value[..width]);
            format!("{width} bytes at {at} set to {value:?}")
        }
        5 => {
            let grains = [1, SECTOR, PAGE];
            let grain = grains[r.below(3)];
            let end = r.below(length / grain) * grain;
            image.data.truncate(end);
            format!("truncated to {end} bytes")
        }
        6 => {
            let at = r.below(sectors) * SECTOR;
            image.data[at..at + SECTOR].fill(0);
            format!("sector at {at} zeroed")
        }
        7 => {
            let at = structure + r.below(PAGE / SECTOR) * SECTOR;
            image.data[at..at + SECTOR].fill([0, 0xFF][r.below(2)]);
            format!("sector at {at} of a tree page filled")
        }
        8 => {
            let at = r.below(all_pages) * PAGE;
            image.data[at..at + PAGE].fill(0);
            format!("page at {at} zeroed")
        }
        9 => {
            let (a, b) = (r.below(sectors) * SECTOR, structure + r.below(8) * SECTOR);
            for i in 0..SECTOR {
                image.data.swap(a + i, b + i);
            }
            format!("sectors at {a} and {b} swapped")
        }
        10 => {
            let (a, b) = (r.below(all_pages) * PAGE, structure);
            for i in 0..PAGE {
                image.data.swap(a + i, b + i);
            }
            format!("pages at {a} and {b} swapped")
        }
        11 => {
            // The page header agrees with its new place: only the trees can tell.
            let from = pages[r.below(pages.len())] * PAGE;
            let page = image.data[from + 8..from + PAGE].to_vec();
            image.data[structure + 8..structure + PAGE].copy_from_slice(&page);
            format!("page at {from} copied to {structure} under its number")
        }
        12 => {
            let at = r.below(base.before.data.len().min(length) / SECTOR) * SECTOR;
            image.data[at..at + SECTOR].copy_from_slice(&base.before.data[at..at + SECTOR]);
            format!("sector at {at} is an old one")
        }
        13 => {
            let at = r.below(base.before.data.len().min(length) / PAGE) * PAGE;
            image.data[at..at + PAGE].copy_from_slice(&base.before.data[at..at + PAGE]);
            format!("page at {at} is an old one")
        }
        14 => {
            let at = r.below(base.before.data.len().min(length) / PAGE) * PAGE;
            let cut = (1 + r.below(7)) * SECTOR;
            image.data[at..at + cut].copy_from_slice(&base.before.data[at..at + cut]);
            format!("page at {at} is old up to byte {cut}")
        }
        15 => {
            let at = structure + r.below(8) * SECTOR;
            for byte in &mut image.data[at..at + SECTOR] {
                *byte = r.next() as u8;
            }
            format!("sector at {at} is noise")
        }
        16 => match r.below(4) {
            0 => {
                let bit = r.below(image.manifest.len() * 8);
                image.manifest[bit / 8] ^= 1 << (bit % 8);
                format!("bit {bit} of the manifest flipped")
            }
            1 => {
                let end = r.below(image.manifest.len());
                image.manifest.truncate(end);
                format!("manifest truncated to {end} bytes")
            }
            2 => {
                image.manifest = base.unclosed.manifest.clone();
                "the manifest is an old one".to_owned()
            }
            _ => {
                image.manifest = base.foreign.manifest.clone();
                "the manifest is another store's".to_owned()
            }
        },
        17 => match r.below(3) {
            0 => {
                image.data = base.before.data.clone();
                "the data file is an old one".to_owned()
            }
            1 => {
                image.data = base.foreign.data.clone();
                "the data file is another store's".to_owned()
            }
            _ => {
                let extra = 1 + r.below(3 * PAGE);
                image.data.extend((0..extra).map(|_| r.next() as u8));
                format!("{extra} bytes of noise appended")
            }
        },
        18 => {
            // As after a kill: the manifest is older, which must not make damage pass.
            image = base.unclosed.clone();
            let at = 2 * PAGE + r.below(base.before.data.len().min(length) / PAGE - 2) * PAGE;
            image.data[at..at + PAGE].copy_from_slice(&base.before.data[at..at + PAGE]);
            format!("page at {at} is an old one, and so is the manifest")
        }
        _ => {
            let flips = 2 + r.below(30);
            for _ in 0..flips {
                let bit = r.below(length * 8);
                image.data[bit / 8] ^= 1 << (bit % 8);
            }
            format!("{flips} bits flipped")
        }
    };
    (image, what)
}

/// Opens, reads, writes, and reads again; `Err` is a wrong answer.
fn judge(state: &Path, base: &Base) -> std::result::Result<String, String> {
    let wrong = |step: &str, content: &Content| {
        content.first_wrong(&base.right).map_or(Ok(()), |text| Err(format!("{step}: {text}")))
    };
    let report = match verify(state) {
        Err(error) => return typed(error.kind(), "verify"),
        Ok(report) => report,
    };
    let mut verdict = "right";
    let content = match Store::open(state, &reader()) {
        Err(error) => {
            if report.damage.is_empty() {
                return Err(format!("verify found nothing, but opening says: {error}"));
            }
            return typed(error.kind(), "reader");
        }
        Ok(store) => {
            Content::read(&store, &base.keys).map_err(|kind| format!("reader: {kind:?}"))?
        }
    };
    wrong("reader", &content)?;
    if content != base.right {
        verdict = "damage reported";
        if report.damage.is_empty() {
            return Err("verify found nothing, but not everything can be read".to_owned());
        }
    }

    let store = match Store::open(state, &options()) {
        Err(error) => return typed(error.kind(), "owner"),
        Ok(store) => store,
    };
    let oldest = base.right.records[0].as_ref().unwrap().id;
    let lengths = [70_000, 100, 9000];
    let written = (|| -> Result<u64> {
        let keys: Vec<ChunkKey> =
            base.keys.iter().copied().filter(|key| key.checkpoint == oldest).collect();
        let id = commit(&store, &lengths, &[oldest], &keys)?;
        store.put_note("sink/a", b"written")?;
        for round in 0..3 {
            store.put_note("sink/long", &vec![round; 3000 + usize::from(round) * 2000])?;
        }
        store.put_note("sink/long", &vec![39; 3000])?;
        Ok(id)
    })();
    let id = match written {
        Err(error) => return typed(error.kind(), "write"),
        Ok(id) => id,
    };
    drop(store);
    let store = match Store::open(state, &options()) {
        Err(error) => return Err(format!("written, but cannot be opened any more: {error}")),
        Ok(store) => store,
    };
    let content = Content::read(&store, &base.keys).map_err(|kind| format!("again: {kind:?}"))?;
    let mut right = base.right.clone();
    right.records = right.records.split_off(1);
    let new = chunks(id, &lengths);
    right.records.push(Ok(record(id, store.job_epoch() - 1, &new)));
    right.chunks.retain(|key, _| key.1 != oldest);
    right.notes.insert("sink/a".to_owned(), Ok(Some(b"written".to_vec())));
    if let Some(text) = content.first_wrong(&right) {
        return Err(format!("again: {text}"));
    }
    for (key, bytes) in new {
        if !store.read_chunk(key, |found| Ok(found == bytes)).unwrap_or(false) {
            return Err(format!("again: the new chunk {key:?} is wrong"));
        }
    }
    Ok(verdict.to_owned())
}

/// The kinds that damage may show as.
fn typed(kind: ErrorKind, step: &str) -> std::result::Result<String, String> {
    match kind {
        ErrorKind::StoreCorrupt | ErrorKind::StoreFormat => {
            Ok(format!("refused ({})", kind.as_str()))
        }
        kind => Err(format!("{step}: damage shows as {kind:?}")),
    }
}

/// The child's part: judges cases from `first` on, up to and without `end`.
fn run(first: u64, end: u64) {
    let root = scratch();
    let base = build(root.path());
    let state = root.path().join("state");
    let mut out = std::io::stdout();
    // The test runner has begun a line.
    writeln!(out).unwrap();
    for case in first..end {
        let (image, what) = mutate(case, &base);
        image.write(&state);
        writeln!(out, "@begin {case} {what}").unwrap();
        let verdict = judge(&state, &base);
        match verdict {
            Ok(verdict) => writeln!(out, "@right {case} {verdict}").unwrap(),
            Err(text) => writeln!(out, "@wrong {case} {text}").unwrap(),
        }
    }
}

#[test]
fn undamaged_stores_are_right() {
    let root = scratch();
    let base = build(root.path());
    let state = root.path().join("state");
    for image in [&base.now, &base.unclosed] {
        image.write(&state);
        assert_eq!(judge(&state, &base), Ok("right".to_owned()));
    }
}

#[test]
fn damage_is_never_a_signal_and_never_silent() {
    const NAME: &str = "damage_is_never_a_signal_and_never_silent";
    if let Some(role) = role() {
        let (first, end) = role.split_once(' ').unwrap();
        return run(first.parse().unwrap(), end.parse().unwrap());
    }
    let cases = std::env::var("ONCEFLOW_TEST_CASES").map_or(CASES, |n| n.parse().unwrap());
    let workers = 2;
    let share = cases.div_ceil(workers);
    let outcomes = std::thread::scope(|scope| {
        let spawn = |worker: u64| {
            scope.spawn(move || range(NAME, worker * share, ((worker + 1) * share).min(cases)))
        };
        let threads: Vec<_> = (0..workers).map(spawn).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    assert_eq!(outcomes.len() as u64, cases);
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for (_, _, verdict) in &outcomes {
        *counts.entry(verdict.as_ref().map_or("wrong", String::as_str)).or_default() += 1;
    }
    let wrong: Vec<String> = outcomes
        .iter()
        .filter_map(|(case, what, verdict)| {
            Some(format!("{case} ({what}): {}", verdict.as_ref().err()?))
        })
        .collect();
    eprintln!("{counts:?}");
    assert!(wrong.is_empty(), "{} of {cases} wrong:\n{}", wrong.len(), wrong.join("\n"));
    // The cases do reach all three ends.
    assert!(counts["right"] > 100 && counts["damage reported"] > 100);
    assert!(counts["refused (store_corrupt)"] > 500);
}

/// Judges a range of cases in children; a child that dies is replaced by one for the rest.
fn range(
    name: &str,
    mut first: u64,
    end: u64,
) -> Vec<(u64, String, std::result::Result<String, String>)> {
    let mut outcomes = Vec::new();
    while first < end {
        let mut child = child(name, &format!("{first} {end}")).spawn().unwrap();
        let mut begun: Option<(u64, String)> = None;
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            let mut words = line.splitn(3, ' ');
            let (tag, case, text) = (words.next(), words.next(), words.next());
            let (Some(tag @ ("@begin" | "@right" | "@wrong")), Some(case), Some(text)) =
                (tag, case, text)
            else {
                continue;
            };
            let case: u64 = case.parse().unwrap();
            if tag == "@begin" {
                begun = Some((case, text.to_owned()));
                continue;
            }
            let (_, what) = begun.take().unwrap();
            let verdict = if tag == "@right" { Ok(text.to_owned()) } else { Err(text.to_owned()) };
            outcomes.push((case, what, verdict));
            first = case + 1;
        }
        let output = child.wait_with_output().unwrap();
        if let Some((case, what)) = begun {
            let error = String::from_utf8_lossy(&output.stderr);
            let text = match output.status.signal() {
                Some(signal) => format!("killed by signal {signal}: {error}"),
                None => format!("the child ended early: {error}"),
            };
            outcomes.push((case, what, Err(text)));
            first = case + 1;
        } else {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
    }
    outcomes
}
