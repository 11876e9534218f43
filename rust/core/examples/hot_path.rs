//! Sum and count by key through a table, against a bare loop over an array of that many cells.
//!
//! `cargo run --release -p onceflow-core --example hot_path [MILLIONS_OF_RECORDS]`

use std::time::Instant;

use onceflow_core::state::{ColumnType, KeyType, Keys, Op, Operand, Scalar, Schema, Table, Update};

const BATCH: usize = 16_384;
const ROUNDS: usize = 5;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let millions: usize = std::env::args().nth(1).map_or(Ok(20), |text| text.parse())?;
    println!("{:>10} {:>8} {:>12} {:>12} {:>7}", "keys", "", "bare M/s", "table M/s", "share");
    for keys in [100_000, 1_000_000, 10_000_000] {
        for zipf in [false, true] {
            measure(keys, zipf, millions * 1_000_000)?;
        }
    }
    Ok(())
}

fn measure(keys: usize, zipf: bool, records: usize) -> Result<(), Box<dyn std::error::Error>> {
    let input = keys_of(keys, zipf, records);
    let values: Vec<f64> = (0..BATCH).map(|index| index as f64).collect();
    let mut array = vec![(0.0_f64, 0_i64); keys];
    let schema = Schema {
        key: KeyType::I64,
        columns: vec![("sum".into(), ColumnType::F64), ("count".into(), ColumnType::I64)],
    };
    let mut table = Table::new("totals", schema, 128, usize::MAX)?;
    let all: Vec<i64> = (0..keys as i64).collect();
    for chunk in all.chunks(BATCH) {
        update(&mut table, chunk, &values)?;
    }
    let (mut bare, mut ours) = (f64::MAX, f64::MAX);
    for _ in 0..ROUNDS {
        let start = Instant::now();
        for batch in input.chunks(BATCH) {
            for (key, value) in batch.iter().zip(&values) {
                let cell = &mut array[*key as usize];
                cell.0 += value;
                cell.1 += 1;
            }
        }
        bare = bare.min(start.elapsed().as_secs_f64());
        let start = Instant::now();
        for batch in input.chunks(BATCH) {
            update(&mut table, batch, &values)?;
        }
        ours = ours.min(start.elapsed().as_secs_f64());
    }
    std::hint::black_box(&array);
    let rate = |seconds: f64| records as f64 / seconds / 1e6;
    println!(
        "{keys:>10} {:>8} {:>12.1} {:>12.1} {:>6.0}%",
        if zipf { "zipf" } else { "uniform" },
        rate(bare),
        rate(ours),
        bare / ours * 100.0
    );
    Ok(())
}

fn update(table: &mut Table, keys: &[i64], values: &[f64]) -> onceflow_core::Result<()> {
    let one = Operand::Scalar(Scalar::I64(1));
    table.update(
        Keys::I64(keys),
        &[
            Update { column: 0, op: Op::Add, operand: Operand::F64(&values[..keys.len()]) },
            Update { column: 1, op: Op::Add, operand: one },
        ],
    )
}

/// Uniform keys, or keys of a Zipf distribution with exponent about 1 (by inversion).
fn keys_of(keys: usize, zipf: bool, records: usize) -> Vec<i64> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..records)
        .map(|_| {
            let random = random();
            if !zipf {
                return (random % keys as u64) as i64;
            }
            let unit = (random >> 11) as f64 / (1_u64 << 53) as f64;
            let rank = ((keys as f64).powf(unit) as u64).min(keys as u64 - 1);
            // Popular keys lie anywhere.
            (rank.wrapping_mul(0x9E37_79B1) % keys as u64) as i64
        })
        .collect()
}
