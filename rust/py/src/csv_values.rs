//! Fields of a CSV column as an Arrow array.
//!
//! What a text means is said by `python/onceflow/connectors/files/csv_types.py`. Here only the usual forms are known,
//! with the same values; where a column has another text, the block is refused and goes that way.

use std::sync::Arc;

use arrow_array::builder::BooleanBufferBuilder;
use arrow_array::{
    ArrayRef, BooleanArray, Float64Array, Int64Array, StringArray, TimestampMicrosecondArray,
};
use arrow_buffer::{BooleanBuffer, NullBuffer, NullBufferBuilder, OffsetBuffer};

use crate::csv_fields::{Fields, Span};
use crate::iso_times::{FIRST_MICROS, IsoTime, LAST_MICROS, SECOND};

/// Up to here a float holds each whole number.
const EXACT_IN_FLOAT: f64 = 9_007_199_254_740_992.0;
/// Powers of ten that a float holds.
const TENS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16,
    1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
];
/// No more decimal digits can wrap 64 bits.
const SAFE_DIGITS: usize = 18;

/// The type of a column.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Of 64 bits; guessed, so that a text must come back as it is written, or said.
    Int {
        exact: bool,
    },
    Float,
    Bool,
    /// Without a zone, or in UTC.
    Datetime {
        has_zone: bool,
    },
    Text,
}

/// Texts that mean that a value is missing.
pub(crate) struct Nulls {
    texts: Vec<Vec<u8>>,
    longest: usize,
}

impl Nulls {
    pub(crate) fn new(texts: Vec<Vec<u8>>) -> Self {
        let longest = texts.iter().map(|text| text.len() + 1).max().unwrap_or(0);
        Self { texts, longest }
    }

    #[inline]
    pub(crate) fn has(&self, text: &[u8]) -> bool {
        text.len() < self.longest && self.texts.iter().any(|null| null == text)
    }
}

/// A column as an array; `None` if a text is none of the usual ones of its type.
pub(crate) fn array(
    fields: &Fields<'_>,
    spans: &[Span],
    kind: Kind,
    nulls: &Nulls,
) -> Option<ArrayRef> {
    Some(match kind {
        Kind::Int { exact } => {
            let (values, valid) = numbers(fields, spans, nulls, |text| int(text, exact))?;
            Arc::new(Int64Array::new(values.into(), valid))
        }
        Kind::Float => {
            let (values, valid) = numbers(fields, spans, nulls, float)?;
            Arc::new(Float64Array::new(values.into(), valid))
        }
        Kind::Datetime { has_zone } => {
            let (values, valid) = numbers(fields, spans, nulls, |text| datetime(text, has_zone))?;
            let array = TimestampMicrosecondArray::new(values.into(), valid);
            Arc::new(if has_zone { array.with_timezone("UTC") } else { array })
        }
        Kind::Bool => {
            let (values, valid) = bools(fields, spans, nulls)?;
            Arc::new(BooleanArray::new(values, valid))
        }
        Kind::Text => Arc::new(texts(fields, spans, nulls)?),
    })
}

fn numbers<T: Copy + Default>(
    fields: &Fields<'_>,
    spans: &[Span],
    nulls: &Nulls,
    parse: impl Fn(&[u8]) -> Option<T>,
) -> Option<(Vec<T>, Option<NullBuffer>)> {
    let mut values = Vec::with_capacity(spans.len());
    let mut valid = NullBufferBuilder::new(spans.len());
    for span in spans {
        let text = fields.text(*span);
        if nulls.has(text) {
            values.push(T::default());
            valid.append_null();
        } else {
            values.push(parse(text)?);
            valid.append_non_null();
        }
    }
    Some((values, valid.finish()))
}

fn bools(
    fields: &Fields<'_>,
    spans: &[Span],
    nulls: &Nulls,
) -> Option<(BooleanBuffer, Option<NullBuffer>)> {
    let mut values = BooleanBufferBuilder::new(spans.len());
    let mut valid = NullBufferBuilder::new(spans.len());
    for span in spans {
        let text = fields.text(*span);
        let is_null = nulls.has(text);
        values.append(!is_null && bool_of(text)?);
        valid.append(!is_null);
    }
    Some((values.finish(), valid.finish()))
}

fn texts(fields: &Fields<'_>, spans: &[Span], nulls: &Nulls) -> Option<StringArray> {
    let mut bytes = Vec::with_capacity(spans.iter().map(Span::len).sum());
    let mut ends = Vec::with_capacity(spans.len() + 1);
    ends.push(0);
    let mut valid = NullBufferBuilder::new(spans.len());
    for span in spans {
        let text = fields.text(*span);
        if nulls.has(text) {
            valid.append_null();
        } else {
            bytes.extend_from_slice(text);
            valid.append_non_null();
        }
        ends.push(i32::try_from(bytes.len()).ok()?);
    }
    StringArray::try_new(OffsetBuffer::new(ends.into()), bytes.into(), valid.finish()).ok()
}

/// Event times of a column that says them as `kind`; a missing one is none.
pub(crate) fn times(
    fields: &Fields<'_>,
    spans: &[Span],
    kind: Kind,
    nulls: &Nulls,
) -> Option<Vec<i64>> {
    let time = |text: &[u8]| match kind {
        Kind::Int { exact } if !nulls.has(text) => {
            let micros = int(text, exact)?.checked_mul(SECOND)?;
            (FIRST_MICROS..=LAST_MICROS).contains(&micros).then_some(micros)
        }
        Kind::Float if !nulls.has(text) => {
            let seconds = float(text)?;
            let years = (FIRST_MICROS / SECOND) as f64..(LAST_MICROS / SECOND + 1) as f64;
            let micros = (seconds * SECOND as f64).round_ties_even() as i64;
            years.contains(&seconds).then_some(micros.min(LAST_MICROS))
        }
        // A text without a zone is UTC, and what is missing elsewhere is no time here.
        Kind::Datetime { .. } | Kind::Text | Kind::Bool => Some(IsoTime::parse(text)?.micros),
        _ => None,
    };
    spans.iter().map(|span| time(fields.text(*span))).collect()
}

/// A whole number; guessed ones are written as they come back.
pub(crate) fn int(text: &[u8], exact: bool) -> Option<i64> {
    let (is_negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] if !exact => (false, digits),
        digits => (false, digits),
    };
    if digits.is_empty() || (exact && digits[0] == b'0' && (is_negative || digits.len() > 1)) {
        return None;
    }
    if digits.len() > SAFE_DIGITS {
        // A sign behind the sign is none.
        return digits[0].is_ascii_digit().then(|| std::str::from_utf8(text).ok()?.parse().ok())?;
    }
    let mut value = 0;
    for digit in digits {
        let digit = digit.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value = value * 10 + i64::from(digit);
    }
    Some(if is_negative { -value } else { value })
}

/// A number as JSON has it, below those that a float would round.
pub(crate) fn float(text: &[u8]) -> Option<f64> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let (mut mantissa, mut at) = (0_u64, 0);
    let mut take = |at: &mut usize| {
        let begun = *at;
        while let Some(digit) =
            digits.get(*at).map(|byte| byte.wrapping_sub(b'0')).filter(|digit| *digit < 10)
        {
            mantissa = mantissa.wrapping_mul(10).wrapping_add(u64::from(digit));
            *at += 1;
        }
        *at - begun
    };
    let whole = take(&mut at);
    if whole == 0 || (whole > 1 && digits[0] == b'0') {
        return None;
    }
    let mut fraction = 0;
    if digits.get(at) == Some(&b'.') {
        at += 1;
        fraction = take(&mut at);
        if fraction == 0 {
            return None;
        }
    }
    let value = if at == digits.len()
        && whole + fraction <= SAFE_DIGITS
        && mantissa < EXACT_IN_FLOAT as u64
    {
        // Both are exact, so the quotient is rounded once (W. D. Clinger, "How to read floating point numbers accurately").
        let value = mantissa as f64 / TENS[fraction];
        if digits.len() < text.len() { -value } else { value }
    } else {
        if at < digits.len() {
            let exponent =
                digits[at..].strip_prefix(b"e").or_else(|| digits[at..].strip_prefix(b"E"))?;
            let exponent = exponent
                .strip_prefix(b"+")
                .or_else(|| exponent.strip_prefix(b"-"))
                .unwrap_or(exponent);
            if exponent.is_empty() || !exponent.iter().all(u8::is_ascii_digit) {
                return None;
            }
        }
        std::str::from_utf8(text).ok()?.parse().ok()?
    };
    (value.abs() < EXACT_IN_FLOAT).then_some(value)
}

pub(crate) fn bool_of(text: &[u8]) -> Option<bool> {
    match text {
        b"true" | b"True" | b"TRUE" => Some(true),
        b"false" | b"False" | b"FALSE" => Some(false),
        _ => None,
    }
}

pub(crate) fn datetime(text: &[u8], has_zone: bool) -> Option<i64> {
    let time = IsoTime::parse(text)?;
    (time.has_zone == has_zone).then_some(time.micros)
}
