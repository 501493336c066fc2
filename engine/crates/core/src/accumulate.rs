//! Accumulators of one pane: which words an aggregate needs, how a value updates them, what they say at the end.
//!
//! A pane is a run of 64-bit words inside a key's slot. All aggregates of a window over the same argument share one
//! [`Group`] of words, so that `mean(x), stddev(x), max(x)` read the value once. A float is null when it is NaN.
//!
//! Variance follows Welford, "Note on a method for calculating corrected sums of squares and products",
//! Technometrics 4 (1962).

use crate::config::{AggregateFunction, FieldType};

/// What a group keeps, as bits of [`Group::mask`].
pub const SUM: u8 = 1;
pub const WELFORD: u8 = 2;
pub const MIN: u8 = 4;
pub const MAX: u8 = 8;
pub const FIRST: u8 = 16;
pub const LAST: u8 = 32;

/// The words of all aggregates over one argument. `at` counts from the pane's first word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Group {
    pub mask: u8,
    /// Int64 arguments keep sum, min, max, first and last as integers; all others as floats.
    pub integer: bool,
    count_at: u16,
    sum_at: u16,
    mean_at: u16,
    min_at: u16,
    max_at: u16,
    first_at: u16,
    last_at: u16,
}

/// Words that an aggregate function needs besides the count.
pub fn needs(function: AggregateFunction) -> u8 {
    match function {
        AggregateFunction::Count => 0,
        AggregateFunction::Sum | AggregateFunction::Mean => SUM,
        AggregateFunction::Variance | AggregateFunction::Stddev => WELFORD,
        AggregateFunction::Min => MIN,
        AggregateFunction::Max => MAX,
        AggregateFunction::First => FIRST,
        AggregateFunction::Last => LAST,
    }
}

/// The type of an aggregate's result over an argument of the given type (`None`: rows are counted).
pub fn result_type(function: AggregateFunction, argument: Option<FieldType>) -> FieldType {
    match function {
        AggregateFunction::Count => FieldType::Int64,
        AggregateFunction::Mean | AggregateFunction::Variance | AggregateFunction::Stddev => FieldType::Float64,
        _ if argument == Some(FieldType::Int64) => FieldType::Int64,
        _ => FieldType::Float64,
    }
}

/// A value that an accumulator can keep in one word.
trait Word: Copy + PartialOrd {
    fn to_bits(self) -> u64;
    fn from_bits(bits: u64) -> Self;
    fn as_f64(self) -> f64;
    fn plus(self, other: Self) -> Self;
}

impl Word for f64 {
    #[inline]
    fn to_bits(self) -> u64 {
        f64::to_bits(self)
    }
    #[inline]
    fn from_bits(bits: u64) -> f64 {
        f64::from_bits(bits)
    }
    #[inline]
    fn as_f64(self) -> f64 {
        self
    }
    #[inline]
    fn plus(self, other: f64) -> f64 {
        self + other
    }
}

impl Word for i64 {
    #[inline]
    fn to_bits(self) -> u64 {
        self as u64
    }
    #[inline]
    fn from_bits(bits: u64) -> i64 {
        bits as i64
    }
    #[inline]
    fn as_f64(self) -> f64 {
        self as f64
    }
    #[inline]
    fn plus(self, other: i64) -> i64 {
        // A sum that has stopped stays where it is: from there no value would bring it back to what it stands for.
        if self == i64::MIN || self == i64::MAX { self } else { self.saturating_add(other) }
    }
}

impl Group {
    /// Lays the group out from word `at` of the pane; returns it and the first word behind it.
    pub fn lay_out(mask: u8, integer: bool, at: u16) -> (Group, u16) {
        let mut next = at + 1;
        let mut take = |bit: u8, words: u16| {
            let here = next;
            if mask & bit != 0 {
                next += words;
            }
            here
        };
        let group = Group {
            mask,
            integer,
            count_at: at,
            sum_at: take(SUM, 1),
            mean_at: take(WELFORD, 2),
            min_at: take(MIN, 1),
            max_at: take(MAX, 1),
            first_at: take(FIRST, 2),
            last_at: take(LAST, 2),
        };
        (group, next)
    }

    /// Counts a row without looking at a value.
    #[inline]
    pub fn count_row(&self, pane: &mut [u64]) {
        pane[usize::from(self.count_at)] += 1;
    }

    /// Adds a float; NaN is null and changes nothing.
    #[inline]
    pub fn add_f64(&self, pane: &mut [u64], value: f64, time_us: i64) {
        if !value.is_nan() {
            self.add(pane, value, time_us);
        }
    }

    /// Adds an integer.
    #[inline]
    pub fn add_i64(&self, pane: &mut [u64], value: i64, time_us: i64) {
        self.add(pane, value, time_us);
    }

    #[inline(always)]
    fn add<T: Word>(&self, pane: &mut [u64], value: T, time_us: i64) {
        let count = pane[usize::from(self.count_at)] + 1;
        pane[usize::from(self.count_at)] = count;
        if self.mask & SUM != 0 {
            let word = &mut pane[usize::from(self.sum_at)];
            *word = T::from_bits(*word).plus(value).to_bits();
        }
        if self.mask & WELFORD != 0 {
            let words = &mut pane[usize::from(self.mean_at)..][..2];
            let (mean, m2) = welford(count, f64::from_bits(words[0]), f64::from_bits(words[1]), value.as_f64());
            words[0] = mean.to_bits();
            words[1] = m2.to_bits();
        }
        if self.mask & MIN != 0 {
            let word = &mut pane[usize::from(self.min_at)];
            *word = least(count, T::from_bits(*word), value).to_bits();
        }
        if self.mask & MAX != 0 {
            let word = &mut pane[usize::from(self.max_at)];
            *word = greatest(count, T::from_bits(*word), value).to_bits();
        }
        if self.mask & FIRST != 0 {
            let words = &mut pane[usize::from(self.first_at)..][..2];
            if count == 1 || time_us < words[0] as i64 {
                words[0] = time_us as u64;
                words[1] = value.to_bits();
            }
        }
        if self.mask & LAST != 0 {
            let words = &mut pane[usize::from(self.last_at)..][..2];
            if count == 1 || time_us >= words[0] as i64 {
                words[0] = time_us as u64;
                words[1] = value.to_bits();
            }
        }
    }

    /// The result of a function whose words this group keeps.
    pub fn result(&self, pane: &[u64], function: AggregateFunction) -> Value {
        let count = pane[usize::from(self.count_at)];
        let word = |at: u16| pane[usize::from(at)];
        let typed = |bits: u64| if self.integer { Value::Int64(bits as i64) } else { Value::Float64(f64::from_bits(bits)) };
        if function == AggregateFunction::Count {
            return Value::Int64(count as i64);
        }
        if count == 0 {
            return Value::Null;
        }
        match function {
            AggregateFunction::Count => unreachable!("count has returned above"),
            AggregateFunction::Sum => typed(word(self.sum_at)),
            // The sum has stopped at its limits: what it stands for is not known.
            AggregateFunction::Mean if self.integer && [i64::MIN, i64::MAX].contains(&(word(self.sum_at) as i64)) => Value::Null,
            AggregateFunction::Mean if self.integer => Value::Float64(word(self.sum_at) as i64 as f64 / count as f64),
            AggregateFunction::Mean => Value::Float64(f64::from_bits(word(self.sum_at)) / count as f64),
            AggregateFunction::Variance => Value::Float64(f64::from_bits(word(self.mean_at + 1)) / count as f64),
            AggregateFunction::Stddev => Value::Float64((f64::from_bits(word(self.mean_at + 1)) / count as f64).sqrt()),
            AggregateFunction::Min => typed(word(self.min_at)),
            AggregateFunction::Max => typed(word(self.max_at)),
            AggregateFunction::First => typed(word(self.first_at + 1)),
            AggregateFunction::Last => typed(word(self.last_at + 1)),
        }
    }
}

/// The least of `known` and the value that makes it `count`. Of equal ones the first stays. Written as choices of values: as
/// branches they are guessed wrong for each new extreme.
#[inline(always)]
fn least<T: Word>(count: u64, known: T, value: T) -> T {
    let least = if value < known { value } else { known };
    if count == 1 { value } else { least }
}

/// As [`least`] for the greatest.
#[inline(always)]
fn greatest<T: Word>(count: u64, known: T, value: T) -> T {
    let greatest = if value > known { value } else { known };
    if count == 1 { value } else { greatest }
}

/// One Welford step: `count` already includes `value`.
#[inline(always)]
fn welford(count: u64, mean: f64, m2: f64, value: f64) -> (f64, f64) {
    let delta = value - mean;
    let mean = mean + delta / count as f64;
    (mean, m2 + delta * (value - mean))
}

/// A single result.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value {
    Null,
    Int64(i64),
    Float64(f64),
}

/// Words of a key's running statistics of one numeric field.
pub const STAT_WORDS: usize = 6;

/// One running statistic, named in a UDF's inputs as `stats.FIELD.NAME`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Statistic {
    Count,
    Mean,
    Variance,
    Stddev,
    Min,
    Max,
    Last,
}

impl Statistic {
    pub const ALL: [Statistic; 7] = [
        Statistic::Count,
        Statistic::Mean,
        Statistic::Variance,
        Statistic::Stddev,
        Statistic::Min,
        Statistic::Max,
        Statistic::Last,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Statistic::Count => "count",
            Statistic::Mean => "mean",
            Statistic::Variance => "variance",
            Statistic::Stddev => "stddev",
            Statistic::Min => "min",
            Statistic::Max => "max",
            Statistic::Last => "last",
        }
    }

    pub fn from_name(name: &str) -> Option<Statistic> {
        Statistic::ALL.into_iter().find(|statistic| statistic.name() == name)
    }
}

/// Updates a field's running statistics; NaN is null and changes nothing.
#[inline]
pub fn update_statistics(words: &mut [u64], value: f64) {
    if value.is_nan() {
        return;
    }
    let words: &mut [u64; STAT_WORDS] = words.try_into().expect("a field's statistics have STAT_WORDS words");
    let count = words[0] + 1;
    let (mean, m2) = welford(count, f64::from_bits(words[1]), f64::from_bits(words[2]), value);
    words[0] = count;
    words[1] = mean.to_bits();
    words[2] = m2.to_bits();
    words[3] = least(count, f64::from_bits(words[3]), value).to_bits();
    words[4] = greatest(count, f64::from_bits(words[4]), value).to_bits();
    words[5] = value.to_bits();
}

/// Reads one statistic; NaN where the field had no value yet, or where it is beyond float64. The count is a float here.
#[inline]
pub fn read_statistic(words: &[u64], statistic: Statistic) -> f64 {
    let value = statistic_of(words, statistic);
    if value.is_finite() { value } else { f64::NAN }
}

#[inline]
fn statistic_of(words: &[u64], statistic: Statistic) -> f64 {
    let count = words[0];
    if statistic == Statistic::Count {
        return count as f64;
    }
    if count == 0 {
        return f64::NAN;
    }
    match statistic {
        Statistic::Count => count as f64,
        Statistic::Mean => f64::from_bits(words[1]),
        Statistic::Variance => f64::from_bits(words[2]) / count as f64,
        Statistic::Stddev => (f64::from_bits(words[2]) / count as f64).sqrt(),
        Statistic::Min => f64::from_bits(words[3]),
        Statistic::Max => f64::from_bits(words[4]),
        Statistic::Last => f64::from_bits(words[5]),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: u8 = SUM | WELFORD | MIN | MAX | FIRST | LAST;

    proptest! {
        #[test]
        fn integer_valued_floats_agree_with_two_passes(values in prop::collection::vec((-1000i32..1000, 0i64..50), 1..200)) {
            let (group, words) = Group::lay_out(ALL, false, 0);
            let mut pane = vec![0u64; usize::from(words)];
            for (value, time) in &values {
                group.add_f64(&mut pane, f64::from(*value), *time);
            }
            let count = values.len() as f64;
            let sum: f64 = values.iter().map(|(value, _)| f64::from(*value)).sum();
            let mean = sum / count;
            let variance = values.iter().map(|(value, _)| (f64::from(*value) - mean).powi(2)).sum::<f64>() / count;
            prop_assert_eq!(group.result(&pane, AggregateFunction::Sum), Value::Float64(sum));
            prop_assert_eq!(group.result(&pane, AggregateFunction::Mean), Value::Float64(mean));
            let Value::Float64(got) = group.result(&pane, AggregateFunction::Variance) else { panic!("a float") };
            prop_assert!((got - variance).abs() <= 1e-9 * variance.max(1.0));
            let earliest = values.iter().map(|(_, time)| *time).min().expect("not empty");
            let first = values.iter().find(|(_, time)| *time == earliest).expect("not empty").0;
            prop_assert_eq!(group.result(&pane, AggregateFunction::First), Value::Float64(f64::from(first)));
            let latest = values.iter().map(|(_, time)| *time).max().expect("not empty");
            let last = values.iter().rev().find(|(_, time)| *time == latest).expect("not empty").0;
            prop_assert_eq!(group.result(&pane, AggregateFunction::Last), Value::Float64(f64::from(last)));
        }

        #[test]
        fn nulls_change_nothing(values in prop::collection::vec(prop::option::of(-100i32..100), 0..50)) {
            let (group, words) = Group::lay_out(ALL, false, 0);
            let mut with_nulls = vec![0u64; usize::from(words)];
            let mut without = with_nulls.clone();
            for value in &values {
                group.add_f64(&mut with_nulls, value.map_or(f64::NAN, f64::from), 0);
                if let Some(value) = value {
                    group.add_f64(&mut without, f64::from(*value), 0);
                }
            }
            prop_assert_eq!(with_nulls, without);
        }
    }

    #[test]
    fn a_pane_without_values_gives_nulls_and_a_zero_count() {
        let (group, words) = Group::lay_out(ALL, true, 0);
        let pane = vec![0u64; usize::from(words)];
        assert_eq!(group.result(&pane, AggregateFunction::Count), Value::Int64(0));
        assert_eq!(group.result(&pane, AggregateFunction::Mean), Value::Null);
    }

    #[test]
    fn integers_stay_exact_beyond_the_floats() {
        let (group, words) = Group::lay_out(ALL, true, 0);
        let mut pane = vec![0u64; usize::from(words)];
        group.add_i64(&mut pane, i64::MAX - 1, 0);
        group.add_i64(&mut pane, 1, 0);
        assert_eq!(group.result(&pane, AggregateFunction::Sum), Value::Int64(i64::MAX));
        assert_eq!(group.result(&pane, AggregateFunction::Max), Value::Int64(i64::MAX - 1));
        assert_eq!(group.result(&pane, AggregateFunction::Mean), Value::Null, "the sum has stopped");
        group.add_i64(&mut pane, -10, 0);
        assert_eq!(group.result(&pane, AggregateFunction::Sum), Value::Int64(i64::MAX), "also for values of the other sign");
        assert_eq!(group.result(&pane, AggregateFunction::Mean), Value::Null);
    }
}
