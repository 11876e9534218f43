//! Batch updates: everything is validated first, then applied block by block.
//!
//! A block has two phases. The first finds (or makes) the row of each key and prepares it: one
//! masked comparison of the header tells that a row was touched in this generation and has all
//! columns of the update set, and everything else is cold. The second is one tight loop a column
//! over rows that lie in the cache by then.

use std::collections::HashMap;

use crate::{Error, ErrorKind, Result};

use super::bounds::Bound;
use super::probe::{BLOCK, ByteKeys, IntKeys, KeySource, WordKeys, find, hash_ahead};
use super::table::{Rest, with_keys};
use super::{Bytes, ColumnType, Keys, Op, Operand, Scalar, Table, Update};
use crate::rows::layout::{GENERATION, INLINE_BYTES, LIVE, Layout, NO_HANDLE, set_bit};
use crate::rows::slab::{ENTRY_BYTES, Slab};

impl Table {
    /// Applies `updates` for each key, in order; keys that are not there are inserted.
    pub fn update(&mut self, keys: Keys<'_>, updates: &[Update<'_>]) -> Result<()> {
        let rows = self.layout.check_keys(&keys)?;
        self.check_updates(updates, rows)?;
        with_keys!(keys, |keys| self.update_checked(keys, updates))
    }

    fn update_checked<K: KeySource>(&mut self, keys: &K, updates: &[Update<'_>]) -> Result<()> {
        let bounds = self.check_sums(keys, updates)?;
        self.make_room(keys, updates)?;
        for (update, bound) in updates.iter().zip(bounds) {
            self.bounds.set(update.column, bound);
        }
        let layout = std::sync::Arc::clone(&self.layout);
        let plan = Plan::new(&layout, updates, self.rest.freeze.generation());
        let words = self.words.as_mut_slice();
        // The compiler makes better code for the most common stride when it knows it.
        match layout.stride {
            4 => plan.run(keys, words, &mut self.rest, 4),
            other => plan.run(keys, words, &mut self.rest, other),
        }
        Ok(())
    }

    /// Columns exist and occur once, types and lengths fit, no NaN.
    fn check_updates(&self, updates: &[Update<'_>], rows: usize) -> Result<()> {
        let mut seen = 0_u64;
        for update in updates {
            let Some((name, column)) = self.layout.schema.columns.get(update.column) else {
                return Err(Error::new(
                    ErrorKind::UnknownName,
                    format!(
                        "table {:?} has {} columns, none of index {}",
                        self.name,
                        self.layout.schema.columns.len(),
                        update.column
                    ),
                ));
            };
            if seen & set_bit(update.column) != 0 {
                return Err(Error::new(
                    ErrorKind::InvalidArgument,
                    format!("column {name:?} occurs twice in one update; use two updates"),
                ));
            }
            seen |= set_bit(update.column);
            let (given, length) = describe(&update.operand);
            if given != *column {
                return Err(Error::new(
                    ErrorKind::TypeMismatch,
                    format!(
                        "column {name:?} is {} and the values are {}; convert them first",
                        column.name(),
                        given.name()
                    ),
                ));
            }
            let numbers = !matches!(column, ColumnType::Bool | ColumnType::Bytes);
            if !numbers && matches!(update.op, Op::Add | Op::Min | Op::Max) {
                return Err(Error::new(
                    ErrorKind::TypeMismatch,
                    format!(
                        "column {name:?} is {}, which has no {}; use first or last",
                        column.name(),
                        format!("{:?}", update.op).to_lowercase()
                    ),
                ));
            }
            if length.is_some_and(|length| length != rows) {
                return Err(Error::new(
                    ErrorKind::LengthMismatch,
                    format!(
                        "{} values for column {name:?} and {rows} keys; give one each, or a scalar",
                        length.unwrap_or_default()
                    ),
                ));
            }
            check_values(name, update, self.layout.max_bytes_len)?;
        }
        Ok(())
    }

    /// The bound of each updated column after the update, once it is known that no sum overflows.
    fn check_sums<K: KeySource>(
        &mut self,
        keys: &K,
        updates: &[Update<'_>],
    ) -> Result<Vec<Option<Bound>>> {
        let mut bounds = Vec::with_capacity(updates.len());
        for update in updates {
            let Update { column, op, operand } = update;
            let after =
                |table: &Self| table.bounds.after(&table.layout, *column, *op, operand, keys.len());
            let mut bound = after(self);
            let live = self.len();
            if bound.is_none()
                && *op == Op::Add
                && self.bounds.worth_measuring(*column, keys.len(), live)
            {
                self.bounds.measure(&self.layout, self.words.as_slice(), *column);
                bound = after(self);
            }
            if bound.is_none() && *op == Op::Add {
                self.add_one_by_one(keys, update)?;
                // No cell can be above the type's own bound, which shows nothing: measure again
                // only when that has a chance to pay.
                bound = Some(match self.layout.column(*column) {
                    ColumnType::F64 | ColumnType::F32 => Bound::Float(f64::INFINITY),
                    _ => Bound::Int(u128::MAX),
                });
            }
            bounds.push(bound);
        }
        Ok(bounds)
    }

    /// Adds a batch on paper, with every intermediate sum.
    fn add_one_by_one<K: KeySource>(&self, keys: &K, update: &Update<'_>) -> Result<()> {
        let words = self.words.as_slice();
        let (name, column) = &self.layout.schema.columns[update.column];
        let (cell, bit) = (self.layout.cells + update.column, set_bit(update.column));
        let overflow = |sum: String| {
            Error::new(
                ErrorKind::Overflow,
                format!(
                    "a sum in column {name:?} would be {sum}, outside of {}; use f64 or reset the \
                     sum before",
                    column.name()
                ),
            )
        };
        let mut sums: HashMap<Vec<u8>, (i128, f64)> = HashMap::new();
        for (index, at) in self.locate(keys).into_iter().enumerate() {
            let sum = sums.entry(keys.identity(index)).or_insert_with(|| {
                if at == usize::MAX || words[at] & bit == 0 {
                    return (0, 0.0);
                }
                let word = words[at + cell];
                match column {
                    ColumnType::I64 => (i128::from(word as i64), 0.0),
                    ColumnType::F64 => (0, f64::from_bits(word)),
                    ColumnType::F32 => (0, f64::from(f32::from_bits(word as u32))),
                    _ => (i128::from(word), 0.0),
                }
            });
            let (int, float) = number(&update.operand, index);
            sum.0 += int;
            let fits = match column {
                ColumnType::I64 => i64::try_from(sum.0).is_ok(),
                ColumnType::U64 => u64::try_from(sum.0).is_ok(),
                ColumnType::U32 => u32::try_from(sum.0).is_ok(),
                ColumnType::F32 => {
                    let next = sum.1 as f32 + float as f32;
                    sum.1 = f64::from(next);
                    next.is_finite()
                }
                _ => {
                    sum.1 += float;
                    sum.1.is_finite()
                }
            };
            if !fits {
                let floats = matches!(column, ColumnType::F64 | ColumnType::F32);
                return Err(overflow(if floats { sum.1.to_string() } else { sum.0.to_string() }));
            }
        }
        Ok(())
    }

    /// Slots and handles for all keys of a batch, before anything is changed.
    fn make_room<K: KeySource>(&mut self, keys: &K, updates: &[Update<'_>]) -> Result<()> {
        let rows = keys.len();
        let long_values: usize = updates.iter().map(|update| bytes_of(&update.operand, rows)).sum();
        let more_bytes = long_values.saturating_add(keys.long_bytes());
        if more_bytes > 0 {
            self.rest.slab.check_room(rows.saturating_mul(1 + updates.len()))?;
        }
        self.trim_timers(rows, more_bytes);
        let slots = self.rest.geometry.slots;
        let slot_bytes = slots * self.layout.stride * 8;
        self.check_bytes(slot_bytes.saturating_add(more_bytes), rows)?;
        if self.rest.occupied + rows <= self.rest.geometry.limit() {
            return Ok(());
        }
        // Counting takes a look-up a key, for every batch from here on; so a table that is at least
        // half full rather grows, unless the batch is about as large as the table.
        let doubled = slot_bytes.saturating_mul(2).saturating_add(more_bytes);
        if rows <= slots / 2
            && self.rest.live >= slots / 2
            && self.check_bytes(doubled, rows).is_ok()
        {
            return self.reserve(rows);
        }
        let mut missing: Vec<(u64, usize)> = self
            .locate(keys)
            .into_iter()
            .enumerate()
            .filter(|(_, at)| *at == usize::MAX)
            .map(|(index, _)| (keys.hash(index), index))
            .collect();
        missing.sort_unstable();
        // Keys that take turns with others of their hash count more than once, which is no harm.
        missing.dedup_by(|one, other| {
            one.0 == other.0 && keys.identity(one.1) == keys.identity(other.1)
        });
        self.reserve(missing.len())
    }
}

/// What the first phase needs to know of an update.
struct Plan<'a> {
    layout: &'a Layout,
    updates: &'a [Update<'a>],
    /// Cells' words before their first value, one an update.
    neutral: Vec<u64>,
    mask: u64,
    ready: u64,
}

impl<'a> Plan<'a> {
    fn new(layout: &'a Layout, updates: &'a [Update<'a>], generation: u32) -> Self {
        let set = updates.iter().map(|update| set_bit(update.column)).sum::<u64>();
        Self {
            layout,
            updates,
            neutral: updates
                .iter()
                .map(|update| neutral(update.op, layout.column(update.column)))
                .collect(),
            mask: GENERATION | LIVE | set,
            ready: u64::from(generation) | LIVE | set,
        }
    }

    #[inline(always)]
    fn run<K: KeySource>(&self, keys: &K, words: &mut [u64], rest: &mut Rest, stride: usize) {
        let place = (rest.geometry, stride);
        let mut rows = [0; BLOCK];
        let (mut hashes, mut next) = ([0; BLOCK], [0; BLOCK]);
        for (index, hash) in hashes.iter_mut().enumerate().take(keys.len()) {
            *hash = hash_ahead(keys, index, words, place);
        }
        for start in (0..keys.len()).step_by(BLOCK) {
            let count = BLOCK.min(keys.len() - start);
            let next_count = BLOCK.min(keys.len() - start - count);
            let rows = &mut rows[..count];
            let blocks = (start, &hashes[..count], &mut next[..next_count]);
            self.resolve(keys, blocks, words, rest, stride, rows);
            for update in self.updates {
                apply(words, &mut rest.slab, rows, self.layout.cells, start, update);
            }
            std::mem::swap(&mut hashes, &mut next);
        }
    }

    /// Finds the rows of a block of keys, makes those that are missing, and prepares them.
    ///
    /// Cache misses overlap with work, and branches are not mispredicted: the keys that lie in
    /// their first bucket in a row that is ready are found without a branch, while the first
    /// buckets of the block after this one are on their way; the few others are looked for.
    #[inline(always)]
    fn resolve<K: KeySource>(
        &self,
        keys: &K,
        (start, hashes, next): (usize, &[u64], &mut [u64]),
        words: &mut [u64],
        rest: &mut Rest,
        stride: usize,
        rows: &mut [usize],
    ) {
        let geometry = rest.geometry;
        let key_words = K::words(self.layout.key_words);
        let (mask, ready) = (self.mask, self.ready);
        let known = ready & !GENERATION;
        let next_start = start + rows.len();
        let mut others = [0_u16; BLOCK];
        let mut count = 0;
        for (index, (row, hash)) in rows.iter_mut().zip(hashes).enumerate() {
            if let Some(next) = next.get_mut(index) {
                *next = hash_ahead(keys, next_start + index, words, (geometry, stride));
            }
            let probe = keys.probe(start + index, *hash);
            let at = geometry.start(*hash) * stride;
            let bucket = &words[at..at + stride + 1 + key_words];
            let is_ready = |row: &[u64]| {
                let key = &row[1..1 + key_words];
                (row[0] & mask == ready) & keys.equals(start + index, &probe, key, &rest.slab)
            };
            let (first, second) = (is_ready(bucket), is_ready(&bucket[stride..]));
            *row = at + usize::from(second) * stride;
            others[count] = index as u16;
            count += usize::from(!(first | second));
        }
        if count == 0 {
            return;
        }
        // Most of the others lack nothing but the first touch since the cut.
        let (mut untouched, mut untouched_count) = ([0; BLOCK], 0);
        let (mut missing, mut missing_count) = ([0_u16; BLOCK], 0);
        for &other in &others[..count] {
            let index = usize::from(other);
            let probe = keys.probe(start + index, hashes[index]);
            let at = geometry.start(hashes[index]) * stride;
            let bucket = &words[at..at + stride + 1 + key_words];
            let is_known = |row: &[u64]| {
                let key = &row[1..1 + key_words];
                (row[0] & known == known) & keys.equals(start + index, &probe, key, &rest.slab)
            };
            let (first, second) = (is_known(bucket), is_known(&bucket[stride..]));
            rows[index] = at + usize::from(second) * stride;
            untouched[untouched_count] = rows[index];
            untouched_count += usize::from(first | second);
            missing[missing_count] = other;
            missing_count += usize::from(!(first | second));
        }
        rest.touch_all(self.layout, words, &untouched[..untouched_count]);
        for index in missing[..missing_count].iter().map(|index| usize::from(*index)) {
            let (row, hash) = (&mut rows[index], hashes[index]);
            let index = start + index;
            let probe = keys.probe(index, hash);
            let place = (index, hash, &probe);
            let (slot, found) = find(words, geometry, key_words, &rest.slab, keys, place);
            *row = slot * stride;
            if found && words[*row] & known == known {
                rest.touch(self.layout, words, slot);
            } else {
                self.prepare(keys, (index, &probe), words, rest, (slot, found));
            }
        }
    }

    #[cold]
    #[inline(never)]
    fn prepare<K: KeySource>(
        &self,
        keys: &K,
        (index, probe): (usize, &K::Probe),
        words: &mut [u64],
        rest: &mut Rest,
        (slot, found): (usize, bool),
    ) {
        let layout = self.layout;
        let at = slot * rest.geometry.stride;
        if !found {
            let key = &mut words[at + 1..at + 1 + layout.key_words];
            keys.write(index, probe, key, &mut rest.slab);
        }
        if !found || words[at] & LIVE == 0 {
            rest.revive(layout, words, at, found);
        } else {
            rest.touch(layout, words, slot);
        }
        for (update, neutral) in self.updates.iter().zip(&self.neutral) {
            let bit = set_bit(update.column);
            if words[at] & bit != 0 {
                continue;
            }
            words[at] |= bit;
            let cell = at + layout.cells + update.column;
            if update.op == Op::First {
                write(&mut words[cell], &mut rest.slab, &update.operand, index);
            } else {
                words[cell] = *neutral;
            }
        }
    }
}

/// The word of a cell that takes the first value as it is.
fn neutral(op: Op, column: ColumnType) -> u64 {
    match (op, column) {
        (_, ColumnType::Bytes) => NO_HANDLE,
        (Op::Add, ColumnType::F64) => (-0.0_f64).to_bits(),
        (Op::Add, ColumnType::F32) => u64::from((-0.0_f32).to_bits()),
        (Op::Min, ColumnType::I64) => i64::MAX as u64,
        (Op::Min, ColumnType::U64) => u64::MAX,
        (Op::Min, ColumnType::U32) => u64::from(u32::MAX),
        (Op::Min, ColumnType::F64) => f64::INFINITY.to_bits(),
        (Op::Min, ColumnType::F32) => u64::from(f32::INFINITY.to_bits()),
        (Op::Max, ColumnType::I64) => i64::MIN as u64,
        (Op::Max, ColumnType::F64) => f64::NEG_INFINITY.to_bits(),
        (Op::Max, ColumnType::F32) => u64::from(f32::NEG_INFINITY.to_bits()),
        _ => 0,
    }
}

/// Calls `change(cell, value)` for each row with the value of its key.
#[inline(always)]
fn each<V: Copy>(
    words: &mut [u64],
    rows: &[usize],
    cell: usize,
    values: impl Iterator<Item = V>,
    change: impl Fn(u64, V) -> u64,
) {
    for (at, value) in rows.iter().zip(values) {
        let word = &mut words[at + cell];
        *word = change(*word, value);
    }
}

/// The second phase for one column. No sum wraps: `check_sums` has seen to it.
fn apply(
    words: &mut [u64],
    slab: &mut Slab,
    rows: &[usize],
    cells: usize,
    start: usize,
    update: &Update<'_>,
) {
    let cell = cells + update.column;
    let range = start..start + rows.len();
    // Of values that are equal, such as 0.0 and -0.0, the first one stays.
    macro_rules! number {
        ($values:expr, $from:expr, $to:expr, $add:expr) => {{
            let values = $values;
            match update.op {
                Op::Add => {
                    each(words, rows, cell, values, |word, value| $to($add($from(word), value)))
                }
                Op::Min => each(words, rows, cell, values, |word, value| {
                    let least = $from(word);
                    $to(if value < least { value } else { least })
                }),
                Op::Max => each(words, rows, cell, values, |word, value| {
                    let greatest = $from(word);
                    $to(if value > greatest { value } else { greatest })
                }),
                Op::Last => each(words, rows, cell, values, |_, value| $to(value)),
                Op::First => {}
            }
        }};
    }
    let f64_word = |value: f64| value.to_bits();
    let f32_from = |word: u64| f32::from_bits(word as u32);
    let f32_word = |value: f32| u64::from(value.to_bits());
    match &update.operand {
        Operand::I64(values) => number!(
            values[range].iter().copied(),
            |word| word as i64,
            |value: i64| value as u64,
            i64::wrapping_add
        ),
        Operand::U64(values) => number!(
            values[range].iter().copied(),
            |word: u64| word,
            |value: u64| value,
            u64::wrapping_add
        ),
        Operand::U32(values) => {
            number!(values[range].iter().copied(), |word| word as u32, u64::from, u32::wrapping_add)
        }
        Operand::F64(values) => number!(
            values[range].iter().copied(),
            f64::from_bits,
            f64_word,
            |sum: f64, value: f64| sum + value
        ),
        Operand::F32(values) => {
            number!(values[range].iter().copied(), f32_from, f32_word, |sum: f32, value: f32| sum
                + value)
        }
        Operand::Scalar(Scalar::I64(value)) => number!(
            std::iter::repeat(*value),
            |word| word as i64,
            |value: i64| value as u64,
            i64::wrapping_add
        ),
        Operand::Scalar(Scalar::U64(value)) => number!(
            std::iter::repeat(*value),
            |word: u64| word,
            |value: u64| value,
            u64::wrapping_add
        ),
        Operand::Scalar(Scalar::U32(value)) => {
            number!(std::iter::repeat(*value), |word| word as u32, u64::from, u32::wrapping_add)
        }
        Operand::Scalar(Scalar::F64(value)) => {
            number!(std::iter::repeat(*value), f64::from_bits, f64_word, |sum: f64, value: f64| sum
                + value)
        }
        Operand::Scalar(Scalar::F32(value)) => {
            number!(std::iter::repeat(*value), f32_from, f32_word, |sum: f32, value: f32| sum
                + value)
        }
        Operand::Bool(_) | Operand::Bytes(_) | Operand::Scalar(_) => {
            if update.op == Op::Last {
                for (at, index) in rows.iter().zip(range) {
                    write(&mut words[at + cell], slab, &update.operand, index);
                }
            }
        }
    }
}

/// Puts one value into a cell.
fn write(word: &mut u64, slab: &mut Slab, operand: &Operand<'_>, index: usize) {
    *word = match operand {
        Operand::I64(values) => values[index] as u64,
        Operand::U64(values) => values[index],
        Operand::U32(values) => u64::from(values[index]),
        Operand::F64(values) => values[index].to_bits(),
        Operand::F32(values) => u64::from(values[index].to_bits()),
        Operand::Bool(values) => u64::from(values[index]),
        Operand::Bytes(values) => store(*word, slab, values.get(index)),
        Operand::Scalar(scalar) => match scalar {
            Scalar::I64(value) => *value as u64,
            Scalar::U64(value) => *value,
            Scalar::U32(value) => u64::from(*value),
            Scalar::F64(value) => value.to_bits(),
            Scalar::F32(value) => u64::from(value.to_bits()),
            Scalar::Bool(value) => u64::from(*value),
            Scalar::Bytes(value) => store(*word, slab, value),
        },
    };
}

/// The handle of a cell after it was given these bytes.
fn store(handle: u64, slab: &mut Slab, bytes: &[u8]) -> u64 {
    match (handle, bytes.is_empty()) {
        (NO_HANDLE, true) => NO_HANDLE,
        (NO_HANDLE, false) => u64::from(slab.insert(bytes)),
        (handle, true) => {
            slab.remove(handle as u32);
            NO_HANDLE
        }
        (handle, false) => {
            slab.replace(handle as u32, bytes);
            handle
        }
    }
}

/// Type of an operand, and its length unless it is a scalar.
fn describe(operand: &Operand<'_>) -> (ColumnType, Option<usize>) {
    match operand {
        Operand::I64(values) => (ColumnType::I64, Some(values.len())),
        Operand::U64(values) => (ColumnType::U64, Some(values.len())),
        Operand::F64(values) => (ColumnType::F64, Some(values.len())),
        Operand::F32(values) => (ColumnType::F32, Some(values.len())),
        Operand::U32(values) => (ColumnType::U32, Some(values.len())),
        Operand::Bool(values) => (ColumnType::Bool, Some(values.len())),
        Operand::Bytes(values) => (ColumnType::Bytes, Some(values.len())),
        Operand::Scalar(scalar) => {
            let column = match scalar {
                Scalar::I64(_) => ColumnType::I64,
                Scalar::U64(_) => ColumnType::U64,
                Scalar::F64(_) => ColumnType::F64,
                Scalar::F32(_) => ColumnType::F32,
                Scalar::U32(_) => ColumnType::U32,
                Scalar::Bool(_) => ColumnType::Bool,
                Scalar::Bytes(_) => ColumnType::Bytes,
            };
            (column, None)
        }
    }
}

/// No NaN, no infinity in a sum; byte strings whose offsets fit.
fn check_values(name: &str, update: &Update<'_>, longest: usize) -> Result<()> {
    let add = update.op == Op::Add;
    let wrong = |index: usize, value: f64| {
        let advice = if add { "filter it out or use another operation" } else { "filter it out" };
        Err(Error::new(
            ErrorKind::NotANumber,
            format!("value {index} for column {name:?} is {value}; {advice}"),
        ))
    };
    let bad = |value: f64| value.is_nan() || add && value.is_infinite();
    match &update.operand {
        Operand::F64(values) => {
            // Without exits from the loop it vectorises.
            let suspicious = values.iter().fold(false, |any, value| any | !value.is_finite());
            if suspicious && let Some(index) = values.iter().position(|value| bad(*value)) {
                return wrong(index, values[index]);
            }
        }
        Operand::F32(values) => {
            if let Some(index) = values.iter().position(|value| bad(f64::from(*value))) {
                return wrong(index, f64::from(values[index]));
            }
        }
        Operand::Scalar(Scalar::F64(value)) if bad(*value) => return wrong(0, *value),
        Operand::Scalar(Scalar::F32(value)) if bad(f64::from(*value)) => {
            return wrong(0, f64::from(*value));
        }
        Operand::Bytes(values) => {
            values.check(&format!("values for column {name:?}"), longest)?;
        }
        Operand::Scalar(Scalar::Bytes(value)) => {
            Bytes { offsets: &[0, value.len() as u64], data: value }
                .check(&format!("values for column {name:?}"), longest)?;
        }
        _ => {}
    }
    Ok(())
}

/// One value of a number column: as an integer or as a float.
fn number(operand: &Operand<'_>, index: usize) -> (i128, f64) {
    match operand {
        Operand::I64(values) => (i128::from(values[index]), 0.0),
        Operand::U64(values) => (i128::from(values[index]), 0.0),
        Operand::U32(values) => (i128::from(values[index]), 0.0),
        Operand::F64(values) => (0, values[index]),
        Operand::F32(values) => (0, f64::from(values[index])),
        Operand::Scalar(Scalar::I64(value)) => (i128::from(*value), 0.0),
        Operand::Scalar(Scalar::U64(value)) => (i128::from(*value), 0.0),
        Operand::Scalar(Scalar::U32(value)) => (i128::from(*value), 0.0),
        Operand::Scalar(Scalar::F64(value)) => (0, *value),
        Operand::Scalar(Scalar::F32(value)) => (0, f64::from(*value)),
        _ => (0, 0.0),
    }
}

/// Memory that a batch of byte strings may take.
fn bytes_of(operand: &Operand<'_>, rows: usize) -> usize {
    match operand {
        Operand::Bytes(values) => values.data.len().saturating_add(rows * ENTRY_BYTES),
        Operand::Scalar(Scalar::Bytes(value)) => {
            rows.saturating_mul(value.len().saturating_add(ENTRY_BYTES))
        }
        _ => 0,
    }
}

/// Memory that the long ones of a batch of keys may take.
pub(super) fn long_key_bytes(keys: &Bytes<'_>) -> usize {
    let longest = keys.offsets.windows(2).any(|pair| pair[1] - pair[0] > INLINE_BYTES as u64);
    if longest { keys.data.len().saturating_add(keys.len() * ENTRY_BYTES) } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::{hash_u64, hash_words};
    use crate::state::{KeyType, Schema};

    /// Whoever chooses the keys can make them collide: that may cost time, and must find room.
    #[test]
    fn keys_of_one_hash_all_find_room() {
        let schema = Schema {
            key: KeyType::Tuple(vec![KeyType::I64, KeyType::U64]),
            columns: vec![("count".to_owned(), ColumnType::I64)],
        };
        let mut table = Table::new("table", schema, 4, usize::MAX).unwrap();
        let words: Vec<u64> =
            (0..100_u64).flat_map(|first| [first, 0_u64.wrapping_sub(hash_u64(first))]).collect();
        assert!(words.chunks(2).all(|key| hash_words(key) == hash_u64(0)));
        let operand = Operand::Scalar(Scalar::I64(1));
        let updates = [Update { column: 0, op: Op::Add, operand }];
        let twice = [words.as_slice(), words.as_slice()].concat();
        table.update(Keys::Words { width: 2, words: &twice }, &updates).unwrap();
        assert_eq!(table.len(), 100);
        let (columns, found) = table.get(Keys::Words { width: 2, words: &words }).unwrap();
        assert!(found.iter().all(|found| *found));
        assert_eq!(columns.len(), 1);
    }
}
