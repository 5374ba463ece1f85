//! The sign-flip permutation test: how often chance alone would give a mean this far from 0.
//!
//! If a mode makes no difference, the log ratio of a block is as likely to be `+x` as `-x`, since
//! the order inside the block was random. Flipping the signs in all 2^n ways therefore gives the
//! exact distribution of the mean without assuming a shape for the noise. The p-value is the share
//! of the flips whose mean is at least as far from 0 as the observed one, which itself is among
//! them: with n blocks it is never below 2 / 2^n.

use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Up to this many values all sign patterns are counted.
pub(crate) const EXACT_UP_TO: usize = 20;

/// Patterns drawn where there are too many to count.
const DRAWS: u32 = 100_000;

/// How a p-value came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PMethod {
    /// All sign patterns were counted.
    Exact,
    /// So many patterns were drawn at random.
    MonteCarlo(u32),
}

/// The smallest p-value that `values` blocks can give.
pub(crate) fn smallest_p(values: usize) -> f64 {
    if values > EXACT_UP_TO {
        return 1.0 / f64::from(DRAWS + 1);
    }
    2.0 / 2.0_f64.powi(values as i32).max(2.0)
}

/// The two-sided p-value of a mean of 0.
pub(crate) fn sign_flip(values: &[f64], seed: u64) -> (f64, PMethod) {
    let extreme = extremity(values);
    if values.len() <= EXACT_UP_TO {
        let patterns = 2.0_f64.powi(values.len() as i32);
        return (extreme.count(values, 0.0) as f64 / patterns, PMethod::Exact);
    }
    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
    let hits = (0..DRAWS).filter(|_| extreme.reached(random_sum(values, &mut random))).count();
    // The observed pattern counts as one draw, so that p is never 0 and the test stays valid.
    ((hits + 1) as f64 / f64::from(DRAWS + 1), PMethod::MonteCarlo(DRAWS))
}

/// Up to this many ways to deal values to two sides all are counted: those of 10 and 10.
const EXACT_DEALS: f64 = 184_756.0;

/// The two-sided p-value of equal means of two independent samples: how many ways to deal the values to the two sides part the means
/// at least as far.
pub(crate) fn two_sample(before: &[f64], after: &[f64], seed: u64) -> (f64, PMethod) {
    let mut pooled: Vec<f64> = before.iter().chain(after).copied().collect();
    let (n, total) = (before.len(), pooled.iter().sum::<f64>());
    let distance = |sum: f64| ((total - sum) / after.len() as f64 - sum / n as f64).abs();
    let slack = 1e-12 * pooled.iter().map(|value| value.abs()).sum::<f64>();
    let threshold = distance(before.iter().sum()) - slack;
    let reached = |sum: f64| distance(sum) >= threshold;
    let deals = deals(n, after.len());
    if deals <= EXACT_DEALS {
        return (count_deals(&pooled, n, 0.0, &reached) as f64 / deals, PMethod::Exact);
    }
    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
    let mut hit = |_: &u32| {
        let (dealt, _) = pooled.partial_shuffle(&mut random, n);
        reached(dealt.iter().sum())
    };
    let hits = (0..DRAWS).filter(&mut hit).count();
    (((hits + 1) as f64) / f64::from(DRAWS + 1), PMethod::MonteCarlo(DRAWS))
}

/// The smallest p-value that samples of these sizes can give.
pub(crate) fn smallest_p_of_two(n: usize, m: usize) -> f64 {
    let deals = deals(n, m);
    let both_ends = if n == m { 2.0 } else { 1.0 };
    if deals > EXACT_DEALS { 1.0 / f64::from(DRAWS + 1) } else { (both_ends / deals).min(1.0) }
}

/// How many ways there are to give `n` of `n + m` values to the first side.
fn deals(n: usize, m: usize) -> f64 {
    (1..=n).fold(1.0, |ways, k| ways * (m + k) as f64 / k as f64).round()
}

/// Ways to add `more` of `values` to `sum` that reach the threshold.
fn count_deals(values: &[f64], more: usize, sum: f64, reached: &impl Fn(f64) -> bool) -> u64 {
    match values {
        _ if more == 0 => u64::from(reached(sum)),
        [first, rest @ ..] if rest.len() >= more => {
            count_deals(rest, more - 1, sum + first, reached)
                + count_deals(rest, more, sum, reached)
        }
        [first, rest @ ..] => count_deals(rest, more - 1, sum + first, reached),
        [] => 0,
    }
}

/// The least sum that counts as "at least as far from 0 as observed".
struct Extremity {
    threshold: f64,
}

/// Rounding may differ between patterns of the same sum; the slack, far below any real difference,
/// counts them as equal, which can only raise p.
fn extremity(values: &[f64]) -> Extremity {
    let slack = 1e-12 * values.iter().map(|value| value.abs()).sum::<f64>();
    Extremity { threshold: values.iter().sum::<f64>().abs() - slack }
}

impl Extremity {
    fn reached(&self, sum: f64) -> bool {
        sum.abs() >= self.threshold
    }

    /// Sign patterns of `values` that reach the threshold when added to `sum`.
    fn count(&self, values: &[f64], sum: f64) -> u64 {
        match values {
            [] => u64::from(self.reached(sum)),
            [first, rest @ ..] => self.count(rest, sum + first) + self.count(rest, sum - first),
        }
    }
}

fn random_sum(values: &[f64], random: &mut impl Rng) -> f64 {
    values.iter().map(|value| if random.random::<bool>() { *value } else { -value }).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_cases_by_hand() {
        // All 2^n patterns: only +++ and --- reach the observed sum.
        assert_eq!(sign_flip(&[1.0, 2.0, 3.0], 1), (0.25, PMethod::Exact));
        // Sums of +-1 +-2 +-3 that reach |1 - 2 + 3| = 2: all but +1+2-3 and -1-2+3.
        assert_eq!(sign_flip(&[1.0, -2.0, 3.0], 1), (0.75, PMethod::Exact));
        assert_eq!(sign_flip(&[0.0, 0.0], 1).0, 1.0);
        assert_eq!(sign_flip(&[5.0], 1).0, 1.0, "one block proves nothing");
    }

    #[test]
    fn the_smallest_p_is_reached_when_all_blocks_agree() {
        for n in [2, 4, 11, 12] {
            let values: Vec<f64> = (1..=n).map(|i| 0.01 + 0.001 * i as f64).collect();
            assert_eq!(sign_flip(&values, 1).0, smallest_p(n));
        }
        assert_eq!(smallest_p(12), 2.0 / 4096.0);
        assert_eq!(smallest_p(0), 1.0);
    }

    #[test]
    fn rounding_does_not_split_equal_sums() {
        // 0.1 + 0.2 is not 0.3 in binary; the patterns tie all the same.
        let (p, _) = sign_flip(&[0.1, 0.2, -0.3], 1);
        assert_eq!(p, 1.0);
    }

    #[test]
    fn many_blocks_are_drawn_and_agree_with_the_exact_count() {
        let values: Vec<f64> = (0..20).map(|i| f64::from(i % 7) - 2.4).collect();
        let (exact, _) = sign_flip(&values, 1);
        // A block of exactly 0 changes no sum, but takes the count over the limit.
        let more: Vec<f64> = values.iter().copied().chain([0.0]).collect();
        let (drawn, method) = sign_flip(&more, 1);
        assert_eq!(method, PMethod::MonteCarlo(DRAWS));
        assert!((exact - drawn).abs() < 0.01, "{exact} against {drawn}");
    }

    #[test]
    fn two_samples_by_hand() {
        // Ways to deal 1, 2, 3, 4 to sides of two: only {1,2} and {3,4} part the means by 2.
        assert_eq!(two_sample(&[1.0, 2.0], &[3.0, 4.0], 1), (2.0 / 6.0, PMethod::Exact));
        assert_eq!(two_sample(&[1.0, 4.0], &[3.0, 2.0], 1).0, 1.0);
        // Of ten deals to sides of two and three only the one observed goes so far.
        assert_eq!(two_sample(&[1.0, 2.0], &[11.0, 12.0, 13.0], 1).0, 0.1);
        assert_eq!(two_sample(&[5.0, 5.0], &[5.0, 5.0], 1).0, 1.0);
    }

    #[test]
    fn large_samples_are_drawn_and_agree_with_the_exact_count() {
        let before: Vec<f64> = (0..10).map(|i| f64::from(i * 7 % 11)).collect();
        let after: Vec<f64> = before.iter().map(|value| value + 2.3).collect();
        let (exact, method) = two_sample(&before, &after, 1);
        assert_eq!(method, PMethod::Exact);
        // One more value on each side, in the middle: over the limit, and nearly the same question.
        let more = |values: &[f64]| [values, &[crate::interval::mean(values)]].concat();
        let (drawn, method) = two_sample(&more(&before), &more(&after), 1);
        assert_eq!(method, PMethod::MonteCarlo(DRAWS));
        assert!((exact - drawn).abs() < 0.05, "{exact} against {drawn}");
        assert_eq!(deals(10, 10), EXACT_DEALS);
    }
}
