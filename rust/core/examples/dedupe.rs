//! What a verdict costs, next to the least that any dedupe does: one look-up of the producer's
//! last sequence in a `std::collections::HashMap`, without epoch, window, position or error.
//!
//! `cargo run --release -p onceflow-core --example dedupe [rounds]`

use std::collections::HashMap;
use std::time::Instant;

use onceflow_core::Result;
use onceflow_core::sequence::{Batches, Deduplicator, DeduplicatorOptions, Order};

/// Batches of one call.
const CALL: usize = 4096;
/// Records of one batch.
const RECORDS: i32 = 100;

/// Columns of a call.
#[derive(Default)]
struct Call {
    ids: Vec<i64>,
    epochs: Vec<i64>,
    firsts: Vec<i32>,
    lasts: Vec<i32>,
}

fn main() -> Result<()> {
    let rounds: usize = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(20);
    println!("ns a batch; {CALL} batches a call, one in {rounds} is a retry");
    println!("producers |  bare map | ordered, ratio | prepared, ratio | unordered, ratio");
    for producers in [1_000, 100_000, 1_000_000] {
        let calls = traffic(producers, rounds);
        let bare = (0..3).map(|_| bare_map(&calls)).fold(f64::INFINITY, f64::min);
        let ordered = best(&calls, Order::Ordered, 5, false)?;
        let prepared = best(&calls, Order::Ordered, 5, true)?;
        let unordered = best(&calls, Order::Unordered, 1024, false)?;
        println!(
            "{producers:9} | {bare:9.1} | {ordered:7.1}, {:4.2}x | {prepared:8.1}, {:4.2}x | \
             {unordered:9.1}, {:4.2}x",
            ordered / bare,
            prepared / bare,
            unordered / bare
        );
    }
    Ok(())
}

/// Producers take turns in a random order; now and then one sends its last batch again.
fn traffic(producers: usize, rounds: usize) -> Vec<Call> {
    let mut next = vec![0_i32; producers];
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    // Few producers get more rounds, so that each size is measured over as many batches.
    let batches = (producers * rounds).max(2_000_000);
    let mut calls = Vec::new();
    for start in (0..batches).step_by(CALL) {
        let mut call = Call::default();
        for _ in start..batches.min(start + CALL) {
            // xorshift64
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let producer = (random >> 11) as usize % producers;
            let retry = (random & 1023) < 1024 / rounds as u64 && next[producer] > 0;
            let first = if retry { next[producer] - RECORDS } else { next[producer] };
            call.ids.push(producer as i64 * 7919 + 1_000_000);
            call.epochs.push(0);
            call.firsts.push(first);
            call.lasts.push(first + RECORDS - 1);
            next[producer] = first + RECORDS;
        }
        calls.push(call);
    }
    calls
}

fn bare_map(calls: &[Call]) -> f64 {
    let mut last: HashMap<u64, i32> = HashMap::new();
    let mut accepted = 0_u64;
    let started = Instant::now();
    for call in calls {
        let mut verdicts = vec![0_u8; call.ids.len()];
        for (row, id) in call.ids.iter().enumerate() {
            let entry = last.entry(*id as u64).or_insert(-1);
            if call.firsts[row] == *entry + 1 {
                *entry = call.lasts[row];
                accepted += 1;
            } else {
                verdicts[row] = 1;
            }
        }
        std::hint::black_box(verdicts);
    }
    std::hint::black_box(accepted);
    nanoseconds_a_batch(started, calls)
}

fn best(calls: &[Call], order: Order, window: usize, prepare: bool) -> Result<f64> {
    let mut best = f64::INFINITY;
    for _ in 0..3 {
        let mut dedupe =
            Deduplicator::new(DeduplicatorOptions { order, window, ..Default::default() })?;
        let started = Instant::now();
        for call in calls {
            let batches =
                Batches::new(&call.ids, &call.epochs, &call.firsts, &call.lasts, Some(&call.ids))?;
            let verdicts = if prepare {
                let prepared = dedupe.prepare(&batches, 0.0)?;
                dedupe.apply(prepared)?
            } else {
                dedupe.check_many(&batches, 0.0)?
            };
            std::hint::black_box(verdicts);
        }
        best = best.min(nanoseconds_a_batch(started, calls));
    }
    Ok(best)
}

fn nanoseconds_a_batch(started: Instant, calls: &[Call]) -> f64 {
    let batches: usize = calls.iter().map(|call| call.ids.len()).sum();
    started.elapsed().as_nanos() as f64 / batches as f64
}
