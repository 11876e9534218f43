//! ISO 8601 texts of the usual form as microseconds since 1970.

/// The years 1 to 9999 of UTC.
pub(crate) const FIRST_MICROS: i64 = -62_135_596_800 * SECOND;
pub(crate) const LAST_MICROS: i64 = 253_402_300_800 * SECOND - 1;
pub(crate) const SECOND: i64 = 1_000_000;

/// A moment as it is written.
pub(crate) struct IsoTime {
    /// As if it were UTC, or moved there from its zone.
    pub(crate) micros: i64,
    pub(crate) has_zone: bool,
}

impl IsoTime {
    /// `2024-02-29`, behind a `T` or a blank `12:30`, `12:30:59`, a point and up to six digits, and `Z` or `+01:00`.
    /// `None` of every other text, and of what is not in the years 1 to 9999.
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        let (date, rest) = text.split_first_chunk::<10>()?;
        let [y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2] = *date else { return None };
        let year = two(y1, y2)? * 100 + two(y3, y4)?;
        let (month, day) = (two(m1, m2)?, two(d1, d2)?);
        if year < 1 || !(1..=12).contains(&month) || !(1..=days_of(year, month)).contains(&day) {
            return None;
        }
        let mut micros = days_since_1970(year, month, day) * 86_400 * SECOND;
        let mut has_zone = false;
        if !rest.is_empty() {
            let ([b'T' | b' ', h1, h2, b':', n1, n2], mut rest) = rest.split_first_chunk::<6>()?
            else {
                return None;
            };
            micros +=
                (within(two(*h1, *h2)?, 24)? * 3600 + within(two(*n1, *n2)?, 60)? * 60) * SECOND;
            if let [b':', s1, s2, behind @ ..] = rest {
                micros += within(two(*s1, *s2)?, 60)? * SECOND;
                rest = behind;
                if let [b'.', behind @ ..] = rest {
                    let digits = behind.iter().take_while(|byte| byte.is_ascii_digit()).count();
                    if !(1..=6).contains(&digits) {
                        return None;
                    }
                    let (fraction, behind) = behind.split_at(digits);
                    let value =
                        fraction.iter().fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0'));
                    micros += value * 10_i64.pow(6 - digits as u32);
                    rest = behind;
                }
            }
            match rest {
                [] => {}
                [b'Z'] => has_zone = true,
                [sign @ (b'+' | b'-'), h1, h2, b':', n1, n2] => {
                    let seconds =
                        within(two(*h1, *h2)?, 24)? * 3600 + within(two(*n1, *n2)?, 60)? * 60;
                    micros += if *sign == b'+' { -seconds } else { seconds } * SECOND;
                    has_zone = true;
                }
                _ => return None,
            }
        }
        (FIRST_MICROS..=LAST_MICROS).contains(&micros).then_some(Self { micros, has_zone })
    }
}

fn two(tens: u8, ones: u8) -> Option<i64> {
    let (tens, ones) = (tens.wrapping_sub(b'0'), ones.wrapping_sub(b'0'));
    (tens < 10 && ones < 10).then(|| i64::from(tens * 10 + ones))
}

fn within(value: i64, bound: i64) -> Option<i64> {
    (value < bound).then_some(value)
}

fn days_of(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days of the proleptic Gregorian calendar (H. Hinnant, "chrono-compatible low-level date algorithms").
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    // Years that begin with March, so that a leap day is the last one.
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// Year, month and day of a day; the inverse of the one above.
pub(crate) fn date_of(days_since_1970: i64) -> (i64, i64, i64) {
    let days = days_since_1970 + 719_468;
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month, day_of_year - (153 * from_march + 2) / 5 + 1)
}
