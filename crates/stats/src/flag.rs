//! Which effects may be called a regression or an improvement.
//!
//! A table holds dozens of comparisons; tested one by one at 5 %, some would stand out by chance.
//! Holm's step-down correction raises the p-values so that the chance of *any* false flag in the
//! table stays at 5 %. A flag needs the corrected p-value and the 95 % interval to agree.

use crate::{estimate::Estimate, interval::Interval, permutation::smallest_p};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Chance of any false flag in a table that is accepted.
pub const ALPHA: f64 = 0.05;

/// Effects inside plus and minus this many percent count as no effect.
pub const MARGIN_PCT: f64 = 1.0;

/// Fewest pairs that may carry `R` or `I`.
///
/// The series' table has 34 comparisons, and with 11 blocks the sign-flip test can just reach 5 %
/// after the correction (34 * 2 / 2^11). The same number holds for smaller tables, so that asking
/// for fewer rows does not buy a flag.
pub const MIN_BLOCKS: usize = 11;

/// What may be said about an effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Flag {
    /// A regression: slower, beyond chance.
    #[serde(rename = "R")]
    Regression,
    /// An improvement: faster, beyond chance.
    #[serde(rename = "I")]
    Improvement,
    /// Shown to be the same within [`MARGIN_PCT`].
    #[serde(rename = "=")]
    Same,
}

impl Flag {
    /// The letter printed.
    #[must_use]
    pub const fn letter(self) -> &'static str {
        match self {
            Flag::Regression => "R",
            Flag::Improvement => "I",
            Flag::Same => "=",
        }
    }

    /// Whether the flag claims a difference.
    #[must_use]
    pub const fn is_change(self) -> bool {
        matches!(self, Flag::Regression | Flag::Improvement)
    }

    pub(crate) fn of_direction(slower: bool) -> Self {
        if slower { Flag::Regression } else { Flag::Improvement }
    }
}

/// The flag of one effect, given its p-value corrected for the table.
///
/// A change that is real but lies inside the margin is flagged `R` or `I`: that it is small can be
/// read from the number, that it is real can not.
#[must_use]
pub fn flag(estimate: &Estimate, p_holm: f64) -> Option<Flag> {
    let proven = estimate.pairs >= MIN_BLOCKS && p_holm < ALPHA;
    if proven && estimate.t95.is_some_and(Interval::excludes_zero) {
        return Some(Flag::of_direction(estimate.mean > 0.0));
    }
    estimate.t90.is_some_and(inside_margin).then_some(Flag::Same)
}

/// Two one-sided tests at 5 % each: the 90 % interval lies inside the margin.
fn inside_margin(t90: Interval) -> bool {
    let margin = MARGIN_PCT / 100.0;
    t90.low > (-margin).ln_1p() && t90.high < margin.ln_1p()
}

/// The smallest corrected p-value that `comparisons` tests over at most `pairs` blocks can reach.
#[must_use]
pub fn smallest_p_holm(comparisons: usize, pairs: usize) -> f64 {
    (comparisons as f64 * smallest_p(pairs)).min(1.0)
}

/// Whether a table of that size can carry `R` or `I` at all.
#[must_use]
pub fn can_flag(comparisons: usize, pairs: usize) -> bool {
    pairs >= MIN_BLOCKS && smallest_p_holm(comparisons, pairs) < ALPHA
}

/// Fewest blocks with which a table of `comparisons` can carry `R` or `I`; none if no number of
/// blocks is enough, because the p-values of many blocks are drawn rather than counted.
#[must_use]
pub fn blocks_needed(comparisons: usize) -> Option<usize> {
    (MIN_BLOCKS..=64).find(|blocks| can_flag(comparisons, *blocks))
}

/// Holm's step-down correction: the k-th smallest of m p-values times `m - k + 1`, never below
/// the one before it, at most 1. In the order of `p_values`.
#[must_use]
pub fn holm(p_values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|a, b| p_values[*a].total_cmp(&p_values[*b]));
    let mut adjusted = vec![0.0; p_values.len()];
    let mut floor = 0.0_f64;
    for (rank, index) in order.into_iter().enumerate() {
        floor = floor.max(p_values[index] * (p_values.len() - rank) as f64).min(1.0);
        adjusted[index] = floor;
    }
    adjusted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_close(found: &[f64], expected: &[f64]) {
        assert_eq!(found.len(), expected.len());
        for (a, b) in found.iter().zip(expected) {
            assert!((a - b).abs() < 1e-12, "{found:?} instead of {expected:?}");
        }
    }

    #[test]
    fn holm_by_hand() {
        assert_close(&holm(&[0.01, 0.04, 0.03, 0.005]), &[0.03, 0.06, 0.06, 0.02]);
        assert_close(&holm(&[0.5, 0.9]), &[1.0, 1.0]);
        assert_close(&holm(&[0.02]), &[0.02]);
        assert_close(&holm(&[]), &[]);
    }

    #[test]
    fn eleven_blocks_are_the_fewest_for_the_series_table() {
        assert!(can_flag(34, 11));
        assert!(!can_flag(34, 10));
        assert!(!can_flag(1, 10), "nor for a smaller table");
        assert_eq!(blocks_needed(34), Some(11));
        assert_eq!(blocks_needed(51), Some(11));
        assert_eq!(blocks_needed(60), Some(12));
        assert_eq!(blocks_needed(10_000_000), None);
    }

    #[test]
    fn a_flag_needs_blocks_p_and_interval() {
        let slower =
            |n: usize| -> Vec<f64> { (0..n).map(|i| 0.03 + 0.001 * (i % 3) as f64).collect() };
        let enough = Estimate::of(&slower(12), 1).unwrap();
        assert_eq!(flag(&enough, 0.01), Some(Flag::Regression));
        assert_eq!(flag(&enough, 0.05), None);
        assert_eq!(flag(&Estimate::of(&slower(10), 1).unwrap(), 0.01), None);
        let faster: Vec<f64> = slower(12).iter().map(|value| -value).collect();
        assert_eq!(flag(&Estimate::of(&faster, 1).unwrap(), 0.01), Some(Flag::Improvement));
        let across_zero = [0.05, -0.04, 0.05, -0.04, 0.05, -0.04, 0.05, -0.04, 0.05, -0.04, 0.05];
        assert_eq!(flag(&Estimate::of(&across_zero, 1).unwrap(), 0.01), None);
    }

    #[test]
    fn the_same_is_shown_by_a_narrow_interval_even_with_few_blocks() {
        let near = [0.001, -0.001, 0.002, 0.0];
        assert_eq!(flag(&Estimate::of(&near, 1).unwrap(), 1.0), Some(Flag::Same));
        let wide = [0.02, -0.02, 0.02, -0.02];
        assert_eq!(flag(&Estimate::of(&wide, 1).unwrap(), 1.0), None);
        assert_eq!(flag(&Estimate::of(&[0.0], 1).unwrap(), 1.0), None, "one block shows nothing");
    }

    #[test]
    fn a_small_but_proven_change_is_a_change() {
        let small: Vec<f64> = (0..12).map(|i| 0.003 + 0.0001 * f64::from(i % 3)).collect();
        assert_eq!(flag(&Estimate::of(&small, 1).unwrap(), 0.01), Some(Flag::Regression));
    }
}
