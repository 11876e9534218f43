//! What a deduplicator holds has a bound in bytes, whatever its settings and whoever comes and goes.

use onceflow_core::ErrorKind;
use onceflow_core::sequence::{Batches, Deduplicator, DeduplicatorOptions, Order, Verdicts};

fn begin(dedupe: &mut Deduplicator, ids: &[i64], now_s: f64) -> onceflow_core::Result<Verdicts> {
    let zeros = vec![0_i64; ids.len()];
    let sequences = vec![0_i32; ids.len()];
    dedupe.check_many(&Batches::new(ids, &zeros, &sequences, &sequences, None)?, now_s)
}

/// The memory passes the bound before anything is refused.
#[test]
fn new_producers_are_refused_before_memory_passes_its_bound() {
    for order in [Order::Ordered, Order::Unordered] {
        for window in [1, 5, 1000, 1 << 17] {
            for max_bytes in [100_000, 1 << 20, 20 << 20] {
                let options =
                    DeduplicatorOptions { order, window, max_bytes, ..Default::default() };
                let mut dedupe = match Deduplicator::new(options) {
                    Ok(dedupe) => dedupe,
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
                        assert!(window == 1 << 17, "{error}");
                        continue;
                    }
                };
                let error = (0..).find_map(|id| begin(&mut dedupe, &[id], 0.0).err()).unwrap();
                assert_eq!(error.kind(), ErrorKind::CapacityExceeded);
                assert!(error.to_string().contains(&format!("max_bytes = {max_bytes}")), "{error}");
                let (held, known) = (dedupe.memory_bytes(), dedupe.len());
                assert!(held <= max_bytes, "{held} of {max_bytes} bytes, window {window}");
                assert!(held >= max_bytes / 8 || known == 1, "{held} of {max_bytes}: too early");
                // What is known goes on, and a restart under the same bound finds all of it.
                let mut other = Deduplicator::new(options).unwrap();
                other.restore(&dedupe.snapshot(), 0.0).unwrap();
                assert_eq!(other.len(), known);
                begin(&mut other, &[-5], 0.0).unwrap_err();
                let verdicts = begin(&mut other, &[0], 0.0).unwrap();
                assert_eq!(verdicts.len(), 1);
            }
        }
    }
}

/// A restart under a smaller bound loses nobody in silence.
#[test]
fn a_smaller_bound_refuses_what_is_stored() {
    let mut dedupe = Deduplicator::new(DeduplicatorOptions::default()).unwrap();
    begin(&mut dedupe, &(0..10_000).collect::<Vec<_>>(), 0.0).unwrap();
    let options = DeduplicatorOptions { max_bytes: 100_000, ..Default::default() };
    let error = Deduplicator::new(options).unwrap().restore(&dedupe.snapshot(), 0.0).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CapacityExceeded);
    assert!(error.to_string().contains("max_bytes"), "{error}");
}

/// Producers that no cut has heard of leave nothing behind when they expire; those that one has
/// are named to the next one, once.
#[test]
fn who_expires_is_named_to_those_alone_who_know_him() {
    let options = DeduplicatorOptions { expiry_s: Some(1.0), ..Default::default() };
    let mut dedupe = Deduplicator::new(options).unwrap();
    begin(&mut dedupe, &[1, 2, 3], 0.0).unwrap();
    assert_eq!(dedupe.changes().producer_ids().len(), 3);
    dedupe.mark_clean();
    let mut held = 0;
    for turn in 1..=1000_i64 {
        let ids: Vec<i64> = (turn * 100..turn * 100 + 100).collect();
        begin(&mut dedupe, &ids, turn as f64 * 2.0).unwrap();
        dedupe.expire(turn as f64 * 2.0).unwrap();
        assert_eq!(dedupe.len(), 100);
        if turn == 10 {
            held = dedupe.memory_bytes();
        }
    }
    assert!(dedupe.memory_bytes() <= held, "{held}, then {} bytes", dedupe.memory_bytes());
    let mut gone: Vec<i64> = dedupe.changes().removed().to_vec();
    gone.sort_unstable();
    assert_eq!(gone, [1, 2, 3]);
    // One that comes back before the cut and goes again is still named.
    begin(&mut dedupe, &[2], 3000.0).unwrap();
    assert!(!dedupe.changes().removed().contains(&2));
    dedupe.expire(4000.0).unwrap();
    assert!(dedupe.changes().removed().contains(&2));
    dedupe.mark_clean();
    assert!(dedupe.changes().removed().is_empty());
}
