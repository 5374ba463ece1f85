//! One comparison: from the log ratios of a row's blocks to an estimate of the effect.

use crate::{
    bootstrap::bca95,
    interval::{Interval, mean, student_t, welch},
    permutation::{PMethod, sign_flip, two_sample},
};

/// The effect of a mode on a row, on the scale of natural logarithms.
#[derive(Clone, Debug, PartialEq)]
pub struct Estimate {
    /// Blocks that held both the mode and its baseline; between runs that share none, the blocks of the one that has fewer.
    pub pairs: usize,
    /// Mean log ratio.
    pub mean: f64,
    /// Student-t 95 % interval; none with a single pair.
    pub t95: Option<Interval>,
    /// Student-t 90 % interval, for the two one-sided tests of equality.
    pub t90: Option<Interval>,
    /// Two-sided p-value of the sign-flip test, not yet corrected for the size of the table.
    pub p: f64,
    /// How `p` was computed.
    pub p_method: PMethod,
}

impl Estimate {
    /// Estimates the effect from one log ratio per block. None without any pair.
    #[must_use]
    pub fn of(log_ratios: &[f64], seed: u64) -> Option<Self> {
        if log_ratios.is_empty() {
            return None;
        }
        let (p, p_method) = sign_flip(log_ratios, seed);
        Some(Estimate {
            pairs: log_ratios.len(),
            mean: mean(log_ratios),
            t95: student_t(log_ratios, 0.95),
            t90: student_t(log_ratios, 0.90),
            p,
            p_method,
        })
    }

    /// Estimates the difference of two runs that share no blocks, from one logarithm per block of each. None unless both have one.
    #[must_use]
    pub fn between(before: &[f64], after: &[f64], seed: u64) -> Option<Self> {
        if before.is_empty() || after.is_empty() {
            return None;
        }
        let (p, p_method) = two_sample(before, after, seed);
        Some(Estimate {
            pairs: before.len().min(after.len()),
            mean: mean(after) - mean(before),
            t95: welch(before, after, 0.95),
            t90: welch(before, after, 0.90),
            p,
            p_method,
        })
    }
}

/// The BCa bootstrap 95 % interval of the mean log ratio (10,000 resamples); none with fewer than
/// two pairs. Apart from [`Estimate`], since no flag needs it and it is what takes time.
#[must_use]
pub fn bca_interval(log_ratios: &[f64], seed: u64) -> Option<Interval> {
    bca95(log_ratios, seed)
}

/// A log ratio as a change in percent.
#[must_use]
pub fn percent(log_ratio: f64) -> f64 {
    log_ratio.exp_m1() * 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_pair_has_an_effect_but_no_interval() {
        let estimate = Estimate::of(&[0.03], 1).unwrap();
        assert_eq!((estimate.pairs, estimate.mean, estimate.p), (1, 0.03, 1.0));
        assert_eq!((estimate.t95, estimate.t90), (None, None));
        assert_eq!(Estimate::of(&[], 1), None);
    }

    #[test]
    fn equal_pairs_have_an_interval_of_no_width() {
        let estimate = Estimate::of(&[0.25; 12], 1).unwrap();
        assert_eq!(estimate.t95, Some(Interval { low: 0.25, high: 0.25 }));
        assert_eq!(estimate.p, 2.0 / 4096.0);
    }

    #[test]
    fn percent_of_a_doubling() {
        assert!((percent(2.0_f64.ln()) - 100.0).abs() < 1e-12);
    }
}
