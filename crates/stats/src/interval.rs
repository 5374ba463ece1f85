//! Student-t confidence intervals of a mean.

use statrs::distribution::{ContinuousCDF, StudentsT};

/// A closed interval, on the scale of whatever it was computed from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Interval {
    /// Whether the interval lies wholly on one side of 0.
    #[must_use]
    pub fn excludes_zero(self) -> bool {
        self.low > 0.0 || self.high < 0.0
    }

    /// Whether two intervals share a point.
    #[must_use]
    pub fn overlaps(self, other: Interval) -> bool {
        self.low <= other.high && other.low <= self.high
    }

    /// Whether `value` lies in the interval.
    #[must_use]
    pub fn contains(self, value: f64) -> bool {
        self.low <= value && value <= self.high
    }
}

/// The arithmetic mean. Callers pass at least one value.
pub(crate) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The Student-t interval of the mean at `confidence` (0.95 for 95 %). None with fewer than two
/// values, which say nothing about their spread.
pub(crate) fn student_t(values: &[f64], confidence: f64) -> Option<Interval> {
    let n = values.len();
    if n < 2 {
        return None;
    }
    let error = (variance(values) / n as f64).sqrt();
    around(mean(values), error, (n - 1) as f64, confidence)
}

/// Welch's interval of the difference of two means, `after - before`: the two sides may vary differently. None unless both have two values.
pub(crate) fn welch(before: &[f64], after: &[f64], confidence: f64) -> Option<Interval> {
    if before.len() < 2 || after.len() < 2 {
        return None;
    }
    let difference = mean(after) - mean(before);
    let [first, second] = [before, after].map(|values| variance(values) / values.len() as f64);
    let error = (first + second).sqrt();
    if error == 0.0 {
        return Some(Interval { low: difference, high: difference });
    }
    let [n, m] = [before, after].map(|values| (values.len() - 1) as f64);
    let freedom = (first + second).powi(2) / (first.powi(2) / n + second.powi(2) / m);
    around(difference, error, freedom, confidence)
}

fn variance(values: &[f64]) -> f64 {
    let centre = mean(values);
    let squares: f64 = values.iter().map(|value| (value - centre).powi(2)).sum();
    squares / (values.len() - 1) as f64
}

fn around(centre: f64, error: f64, freedom: f64, confidence: f64) -> Option<Interval> {
    let half = t_quantile(freedom, 0.5 + confidence / 2.0)? * error;
    Some(Interval { low: centre - half, high: centre + half })
}

/// The quantile of Student's t distribution with `freedom` degrees of freedom.
fn t_quantile(freedom: f64, probability: f64) -> Option<f64> {
    let distribution = StudentsT::new(0.0, 1.0, freedom).ok()?;
    Some(distribution.inverse_cdf(probability))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t_quantiles_agree_with_published_tables() {
        let known = [
            (1.0, 0.975, 12.706_205),
            (1.0, 0.95, 6.313_752),
            (2.0, 0.975, 4.302_653),
            (3.0, 0.975, 3.182_446),
            (3.0, 0.95, 2.353_363),
            (10.0, 0.975, 2.228_139),
            (11.0, 0.975, 2.200_985),
            (11.0, 0.95, 1.795_885),
            (30.0, 0.975, 2.042_272),
            (1000.0, 0.975, 1.962_339),
        ];
        for (freedom, probability, expected) in known {
            let found = t_quantile(freedom, probability).unwrap();
            assert!((found - expected).abs() < 1e-5, "t({freedom}, {probability}) = {found}");
        }
    }

    #[test]
    fn the_interval_of_a_textbook_sample() {
        // Mean 3, standard deviation sqrt(2.5), standard error 0.70711, t(4, 0.975) = 2.77645.
        let interval = student_t(&[1.0, 2.0, 3.0, 4.0, 5.0], 0.95).unwrap();
        assert!((interval.low - 1.036_757).abs() < 1e-5, "{interval:?}");
        assert!((interval.high - 4.963_243).abs() < 1e-5, "{interval:?}");
    }

    #[test]
    fn one_value_has_no_interval_and_equal_values_a_point() {
        assert_eq!(student_t(&[1.0], 0.95), None);
        assert_eq!(student_t(&[0.5, 0.5, 0.5], 0.95), Some(Interval { low: 0.5, high: 0.5 }));
    }

    /// Two samples of R's manual page of `t.test`, `extra ~ group` of its data set `sleep`: t = -1.8608, df = 17.776, interval of the
    /// difference -3.3654832 to 0.2054832.
    #[test]
    fn welch_agrees_with_r() {
        let first = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0];
        let second = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4];
        let interval = welch(&second, &first, 0.95).unwrap();
        assert!((interval.low + 3.365_483_2).abs() < 1e-5, "{interval:?}");
        assert!((interval.high - 0.205_483_2).abs() < 1e-5, "{interval:?}");
        assert_eq!(welch(&[1.0], &second, 0.95), None);
    }
}
