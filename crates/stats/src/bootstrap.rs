//! The bias-corrected and accelerated (BCa) bootstrap interval of a mean.
//!
//! It stands beside the Student-t interval as a check that needs no normal distribution: where the
//! two differ much, a few blocks are unlike the rest. With a dozen blocks it is a little too
//! narrow, so no flag depends on it. Method: Efron, "Better bootstrap confidence intervals" (1987).

use crate::interval::{Interval, mean};
use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use statrs::distribution::{ContinuousCDF, Normal};

/// Resamples drawn for each interval.
const RESAMPLES: usize = 10_000;

/// The BCa 95 % interval of the mean. None with fewer than two values.
///
/// The seed alone decides the resamples, so that an interval does not depend on which other rows
/// stand in the table.
pub(crate) fn bca95(values: &[f64], seed: u64) -> Option<Interval> {
    if values.len() < 2 {
        return None;
    }
    let centre = mean(values);
    if values.iter().all(|value| *value == values[0]) {
        return Some(Interval { low: centre, high: centre });
    }
    let means = resampled_means(values, seed);
    let bias = bias_correction(&means, centre);
    let acceleration = acceleration(values);
    let end = |normal_quantile: f64| {
        let shifted = bias + normal_quantile;
        let probability = Normal::standard().cdf(bias + shifted / (1.0 - acceleration * shifted));
        sorted_quantile(&means, probability)
    };
    let z = Normal::standard().inverse_cdf(0.975);
    Some(Interval { low: end(-z), high: end(z) })
}

/// Means of resamples drawn with replacement, in ascending order.
fn resampled_means(values: &[f64], seed: u64) -> Vec<f64> {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
    let n = values.len();
    let mut one_mean =
        |_| (0..n).map(|_| values[random.random_range(0..n)]).sum::<f64>() / n as f64;
    let mut means: Vec<f64> = (0..RESAMPLES).map(&mut one_mean).collect();
    means.sort_by(f64::total_cmp);
    means
}

/// How far the median of the resamples lies from the estimate, in normal quantiles. Ties count
/// half; the share is kept off 0 and 1, where the quantile is infinite.
fn bias_correction(sorted_means: &[f64], centre: f64) -> f64 {
    let below = sorted_means.partition_point(|mean| *mean < centre);
    let not_above = sorted_means.partition_point(|mean| *mean <= centre);
    let count = sorted_means.len() as f64;
    let share = (below + not_above) as f64 / 2.0 / count;
    Normal::standard().inverse_cdf(share.clamp(0.5 / count, 1.0 - 0.5 / count))
}

/// Skewness of the mean by the jackknife: a sixth of the skewness of the leave-one-out means.
/// For a mean those differ from their own average by `(value - mean) / (n - 1)`.
fn acceleration(values: &[f64]) -> f64 {
    let centre = mean(values);
    let (squares, cubes) = values.iter().fold((0.0, 0.0), |(squares, cubes), value| {
        let distance = value - centre;
        (squares + distance.powi(2), cubes + distance.powi(3))
    });
    cubes / (6.0 * f64::powf(squares, 1.5))
}

/// The quantile of ascending values, between two of them by proportion.
fn sorted_quantile(sorted: &[f64], probability: f64) -> f64 {
    let position = probability.clamp(0.0, 1.0) * (sorted.len() - 1) as f64;
    let (below, share) = (position.floor() as usize, position.fract());
    let above = (below + 1).min(sorted.len() - 1);
    sorted[below] + share * (sorted[above] - sorted[below])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_interval() {
        let values = [0.010, 0.012, 0.009, 0.020, 0.011, 0.013];
        assert_eq!(bca95(&values, 7), bca95(&values, 7));
        assert_ne!(bca95(&values, 7), bca95(&values, 8));
    }

    #[test]
    fn symmetric_values_give_a_symmetric_interval_near_the_normal_one() {
        let values: Vec<f64> = (-50..=50).map(f64::from).collect();
        let interval = bca95(&values, 1).unwrap();
        // Standard error of the mean, with the bootstrap's divisor n: sqrt(850 / 101) = 2.901.
        assert!((interval.high - 1.96 * 2.901).abs() < 0.2, "{interval:?}");
        assert!((interval.high + interval.low).abs() < 0.3, "{interval:?}");
    }

    #[test]
    fn a_long_upper_tail_moves_the_interval_up() {
        let mut values = vec![0.0; 20];
        values.extend([1.0, 2.0, 8.0]);
        let interval = bca95(&values, 1).unwrap();
        let centre = mean(&values);
        assert!(interval.high - centre > centre - interval.low, "{interval:?} around {centre}");
    }

    #[test]
    fn one_value_has_no_interval_and_equal_values_a_point() {
        assert_eq!(bca95(&[1.0], 1), None);
        assert_eq!(bca95(&[0.1, 0.1], 1), Some(Interval { low: 0.1, high: 0.1 }));
    }
}
