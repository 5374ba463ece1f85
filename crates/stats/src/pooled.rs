//! The rule by which the Linux series flagged its own table, for comparison only.
//!
//! It pools all samples of all boots, takes the Student-t 95 % interval of the mean of either side,
//! and calls the difference significant when the two intervals do not overlap. Samples of one boot
//! resemble each other, so pooling them overstates how much is known: with 1 % noise between boots
//! it raises several times the false alarms it promises, and a drift over the session nearly always
//! raises one. The table prints its verdict as `compat_flag`, never as the flag.

use crate::{
    flag::Flag,
    interval::{mean, student_t},
};

/// What the series' rule says about samples of a mode beside those of the baseline. None when the
/// intervals overlap, or when either side has fewer than two samples.
#[must_use]
pub fn pooled_flag(baseline: &[f64], mode: &[f64]) -> Option<Flag> {
    let (without, with) = (student_t(baseline, 0.95)?, student_t(mode, 0.95)?);
    (!without.overlaps(with)).then(|| Flag::of_direction(mean(mode) > mean(baseline)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_apart_are_flagged_by_direction() {
        let slow = [103.0, 104.0, 103.5, 103.2];
        let fast = [100.0, 100.2, 100.1, 99.9];
        assert_eq!(pooled_flag(&fast, &slow), Some(Flag::Regression));
        assert_eq!(pooled_flag(&slow, &fast), Some(Flag::Improvement));
    }

    #[test]
    fn overlapping_or_too_few_samples_are_not_flagged() {
        assert_eq!(pooled_flag(&[100.0, 104.0], &[101.0, 105.0]), None);
        assert_eq!(pooled_flag(&[100.0], &[200.0]), None);
    }
}
