//! The deduplicator against a model that keeps every accepted batch in a list.

use std::collections::HashMap;

use onceflow_core::sequence::{
    Batches, DedupeMode, Deduplicator, DeduplicatorOptions, Order, Verdict, VerdictCode, Verdicts,
};
use proptest::prelude::*;

const ROUND: i64 = 1 << 31;

#[derive(Debug, Clone, Copy)]
struct Sent {
    producer: i64,
    epoch: i64,
    first: i64,
    count: i64,
    position: i64,
}

/// What was accepted of a producer's newest epoch, as sequences that never wrap.
struct Past {
    epoch: i64,
    last_accepted_s: f64,
    batches: Vec<Sent>,
}

struct Model {
    options: DeduplicatorOptions,
    past: HashMap<i64, Past>,
}

impl Model {
    fn judge(&mut self, sent: Sent, now_s: f64) -> Verdict {
        let ordered = self.options.order == Order::Ordered;
        let window = self.options.window as i64;
        let expiry_s = self.options.expiry_s.unwrap_or(f64::INFINITY);
        self.past.retain(|_, past| now_s - past.last_accepted_s < expiry_s);
        let first_of_all = sent.first == 0 || !ordered && sent.first < window;
        let anywhere = self.options.mode == DedupeMode::Compatible;
        let Some(past) = self.past.get_mut(&sent.producer) else {
            return self.start(sent, now_s, first_of_all || anywhere);
        };
        if sent.epoch < past.epoch {
            return Verdict::Fenced { current_epoch: past.epoch };
        }
        if sent.epoch > past.epoch {
            return self.start(sent, now_s, first_of_all);
        }
        // Which of the rounds is meant: the one that brings it closest to what is expected.
        let highest = past.batches.iter().map(|batch| batch.first + batch.count - 1).max().unwrap();
        let ahead = (sent.first - highest - 1).rem_euclid(ROUND);
        let ahead = if ahead >= ROUND / 2 { ahead - ROUND } else { ahead };
        let sent = Sent { first: highest + 1 + ahead, ..sent };
        let end = sent.first + sent.count;
        let verdict = if ordered {
            let from = past.batches.len().saturating_sub(self.options.window);
            let remembered = &past.batches[from..];
            let same = |batch: &&Sent| batch.first == sent.first && batch.count == sent.count;
            let expected = ((highest + 1) % ROUND) as i32;
            if ahead == 0 {
                Verdict::Accept
            } else if let Some(original) = remembered.iter().find(same) {
                Verdict::Duplicate { position: Some(original.position) }
            } else if end <= remembered[0].first {
                Verdict::TooOld
            } else {
                Verdict::Gap { expected }
            }
        } else {
            let started = past.batches[0];
            let since = if started.first + started.count <= ROUND { 0 } else { i64::MIN };
            let lowest = (highest - window + 1).max(since);
            let seen = |sequence: i64| {
                let holds = |b: &Sent| b.first <= sequence && sequence < b.first + b.count;
                past.batches.iter().any(holds)
            };
            let unseen = (sent.first..end).find(|sequence| !seen(*sequence));
            if sent.first < lowest {
                Verdict::TooOld
            } else if let Some(unseen) = unseen {
                if (sent.first..end).any(seen) {
                    Verdict::Gap { expected: (unseen % ROUND) as i32 }
                } else {
                    Verdict::Accept
                }
            } else {
                Verdict::Duplicate { position: None }
            }
        };
        if verdict == Verdict::Accept {
            past.batches.push(sent);
            past.last_accepted_s = past.last_accepted_s.max(now_s);
        }
        verdict
    }

    fn start(&mut self, sent: Sent, now_s: f64, accept: bool) -> Verdict {
        if !accept {
            return Verdict::Gap { expected: 0 };
        }
        let last = self.past.get(&sent.producer).map_or(now_s, |past| past.last_accepted_s);
        let last_accepted_s = last.max(now_s);
        let past = Past { epoch: sent.epoch, last_accepted_s, batches: vec![sent] };
        self.past.insert(sent.producer, past);
        Verdict::Accept
    }
}

fn expect(verdicts: &Verdicts, row: usize, verdict: Verdict) {
    let (code, detail) = match verdict {
        Verdict::Accept => (VerdictCode::Accept, -1),
        Verdict::Duplicate { position } => (VerdictCode::Duplicate, position.unwrap_or(-1)),
        Verdict::TooOld => (VerdictCode::TooOld, -1),
        Verdict::Gap { expected } => (VerdictCode::Gap, i64::from(expected)),
        Verdict::Fenced { current_epoch } => (VerdictCode::Fenced, current_epoch),
    };
    let got = (verdicts.codes()[row], verdicts.details()[row]);
    assert_eq!(got, (code as u8, detail), "row {row}: {verdict:?}");
}

/// What happens between two calls.
#[derive(Debug, Clone, Copy)]
enum Between {
    Nothing,
    Expire,
    SnapshotAndRestore,
    /// The changes since the last cut go to a table, and a new deduplicator reads the table.
    CutAndReopen,
}

fn check(dedupe: &mut Deduplicator, sent: &[Sent], now_s: f64, prepare: bool) -> Verdicts {
    let ids: Vec<i64> = sent.iter().map(|batch| batch.producer).collect();
    let epochs: Vec<i64> = sent.iter().map(|batch| batch.epoch).collect();
    let firsts: Vec<i32> = sent.iter().map(|batch| batch.first as i32).collect();
    let last = |batch: &Sent| ((batch.first + batch.count - 1) % ROUND) as i32;
    let lasts: Vec<i32> = sent.iter().map(last).collect();
    let positions: Vec<i64> = sent.iter().map(|batch| batch.position).collect();
    let batches = Batches::new(&ids, &epochs, &firsts, &lasts, Some(&positions)).unwrap();
    if prepare {
        let prepared = dedupe.prepare(&batches, now_s).unwrap();
        dedupe.apply(prepared).unwrap()
    } else {
        dedupe.check_many(&batches, now_s).unwrap()
    }
}

/// Batches (producer, how the epoch moves, offset, count), seconds that pass before them, whether to
/// prepare, and what comes after.
type Call = (Vec<(i64, i64, i64, i64)>, u8, bool, Between);

fn calls() -> impl Strategy<Value = Vec<Call>> {
    // Offsets from a moving base, so that most batches fall near what is expected.
    let batch = (0..4_i64, 0..3_i64, -6..8_i64, 1..6_i64);
    let between = prop_oneof![
        4 => Just(Between::Nothing),
        1 => Just(Between::Expire),
        1 => Just(Between::SnapshotAndRestore),
        2 => Just(Between::CutAndReopen),
    ];
    let call = (prop::collection::vec(batch, 1..50), 0..4_u8, any::<bool>(), between);
    prop::collection::vec(call, 1..12)
}

fn run(options: DeduplicatorOptions, base: i64, calls: Vec<Call>) {
    let mut dedupe = Deduplicator::new(options).unwrap();
    let mut model = Model { options, past: HashMap::new() };
    let mut table: HashMap<i64, Vec<u8>> = HashMap::new();
    let (mut now_s, mut position) = (0.0, 0);
    for (batches, seconds, prepare, between) in calls {
        now_s += f64::from(seconds);
        let mut sent = Vec::new();
        let mut expected = Vec::new();
        for (producer, newer, offset, count) in batches {
            let past = model.past.get(&producer);
            let end = past.and_then(|past| past.batches.iter().map(|b| b.first + b.count).max());
            let current = past.map_or(0, |past| past.epoch);
            // Mostly the epoch that is current; the one before and the one after now and then.
            let epoch = if offset == 7 { (current + newer - 1).max(0) } else { current };
            let around = if offset < 3 { 0 } else { offset - 3 };
            let first = match end {
                Some(end) if offset < 0 => end + offset,
                Some(end) => end + around,
                None => base + around,
            };
            let first = if epoch > current { around } else { first.rem_euclid(ROUND) };
            // A retry of a batch as it was.
            let retry = past.filter(|_| newer == 0 && offset < 0).and_then(|past| {
                past.batches
                    .len()
                    .checked_sub(offset.unsigned_abs() as usize)
                    .map(|age| past.batches[age])
            });
            let batch = Sent { producer, epoch, first, count, position };
            let batch = retry.map_or(batch, |original| Sent {
                first: original.first.rem_euclid(ROUND),
                position,
                epoch: current,
                ..original
            });
            position += 1;
            expected.push(model.judge(batch, now_s));
            sent.push(batch);
        }
        let verdicts = check(&mut dedupe, &sent, now_s, prepare);
        for (row, verdict) in expected.into_iter().enumerate() {
            expect(&verdicts, row, verdict);
        }
        match between {
            Between::Nothing => {}
            Between::Expire => {
                dedupe.expire(now_s).unwrap();
                assert_eq!(dedupe.len(), model.past.len());
            }
            Between::SnapshotAndRestore => {
                let snapshot = dedupe.snapshot();
                dedupe.restore(&snapshot, now_s).unwrap();
                assert_eq!(dedupe.len(), model.past.len());
            }
            Between::CutAndReopen => {
                let changes = dedupe.changes();
                for (row, id) in changes.producer_ids().iter().enumerate() {
                    table.insert(*id, changes.entry(row).to_vec());
                }
                changes.removed().iter().for_each(|id| drop(table.remove(id)));
                dedupe.mark_clean();
                assert!(dedupe.changes().is_empty());
                let whole = dedupe.snapshot();
                let entries = table.iter().map(|(id, entry)| (*id, entry.as_slice()));
                // Long ago, so that nothing expires: the table must be what was cut.
                let mut reopened = Deduplicator::new(options).unwrap();
                reopened.restore_entries(entries, -1e9).unwrap();
                assert_eq!(reopened.snapshot(), whole);
                assert!(reopened.changes().is_empty());
                dedupe = reopened;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn verdicts_are_the_models(
        compatible in any::<bool>(),
        unordered in any::<bool>(),
        window in prop_oneof![1..8_usize, 60..70_usize],
        expiry_s in prop::option::of(1.0..6.0_f64),
        near_the_wrap in any::<bool>(),
        calls in calls(),
    ) {
        let options = DeduplicatorOptions {
            mode: if compatible { DedupeMode::Compatible } else { DedupeMode::Strict },
            order: if unordered { Order::Unordered } else { Order::Ordered },
            window,
            expiry_s,
            ..Default::default()
        };
        let base = if compatible && near_the_wrap { ROUND - 12 } else { 0 };
        run(options, base, calls);
    }
}
