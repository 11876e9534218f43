//! What the log costs: run by hand, `cargo test --release --test log_cost -- --ignored --nocapture`.

mod log_support;

use std::time::Instant;

use log_support::*;
use onceflow_core::log::{
    ByteColumn, FetchLimits, Log, LogOptions, Partitioning, Producer, ProducerOptions, Records,
    Timestamps,
};

fn quantile(samples: &mut [f64], q: f64) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[((samples.len() - 1) as f64 * q) as usize] * 1e3
}

fn large() -> LogOptions {
    LogOptions { map_size_bytes: 64 << 30, ..options() }
}

/// On the disk, not in memory.
fn disk() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

#[test]
#[ignore = "measures"]
fn produce_and_fetch() {
    let root = disk();
    let log = Log::open(root.path(), &large()).unwrap();
    for (width, rows, rounds) in
        [(100, 1, 200), (100, 1000, 200), (100, 10_000, 100), (100, 50_000, 60), (1000, 5_000, 60)]
    {
        let name = format!("t{width}-{rows}");
        topic(&log, &name, 1);
        let data: Vec<u8> = (0..width * rows).map(|byte| (byte * 7 % 251) as u8).collect();
        let column = ByteColumn::fixed(rows, width, &data).unwrap();
        let records = Records::new(rows, Timestamps::Same(1), None, Some(column), None).unwrap();
        for kind in ["idempotent", "transactional"] {
            let transactional_id = (kind == "transactional").then(|| name.clone());
            let options = ProducerOptions { transactional_id, ..ProducerOptions::default() };
            let producer = Producer::new(&log, options, 0).unwrap();
            if kind == "transactional" {
                producer.init_transactions(0).unwrap();
            }
            let mut seconds = Vec::new();
            let begin = Instant::now();
            for _ in 0..rounds {
                let start = Instant::now();
                if kind == "transactional" {
                    producer.begin_transaction(0).unwrap();
                    producer.produce(&name, Partitioning::One(0), &records, 0).unwrap();
                    producer.commit_transaction(0).unwrap();
                } else {
                    producer.produce(&name, Partitioning::One(0), &records, 0).unwrap();
                }
                seconds.push(start.elapsed().as_secs_f64());
            }
            let rate = (rows * rounds) as f64 / begin.elapsed().as_secs_f64() / 1e6;
            println!(
                "{kind:>13} {rows:>6} x {width:>4} B: p50 {:>7.3} ms, p99 {:>7.3} ms, {rate:>6.3} M records/s",
                quantile(&mut seconds, 0.5),
                quantile(&mut seconds, 0.99),
            );
        }
        let start = Instant::now();
        let (mut offset, mut total) = (0, 0);
        loop {
            let found = log.fetch(&name, 0, offset, FetchLimits::default()).unwrap();
            if found.is_empty() {
                break;
            }
            total += found.len();
            offset = found.next_offset;
        }
        println!(
            "        fetch {:>6.3} M records/s",
            total as f64 / start.elapsed().as_secs_f64() / 1e6
        );
    }
}
