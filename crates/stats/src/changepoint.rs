//! Where a series of results changed: the best cut into stretches of one level each.
//!
//! Each point has an error of its own: that of its run, and that of its build, since every build lays the code out anew and moves small
//! rows with it. A cut has to explain more of the squared distances, in units of these errors, than its penalty, so that neither noise
//! nor layout is told as a change. The best cut is found exactly, by dynamic programming over its last stretch (Jackson et al., "An
//! algorithm for optimal partitioning of data on an interval", 2005), with a penalty of three logarithms of the number of points.

use serde::{Deserialize, Serialize};

/// One result.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Its value.
    pub value: f64,
    /// Its standard error, of run and layout together; above 0.
    pub error: f64,
}

/// Points of one level.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stretch {
    /// The first of them.
    pub first: usize,
    /// One behind the last.
    pub end: usize,
    /// Their mean, the surer ones counting more.
    pub level: f64,
}

/// The best cut of a series. None of its points may have an error of 0.
#[must_use]
pub fn stretches(points: &[Point]) -> Vec<Stretch> {
    let sums = Sums::of(points);
    let penalty = 3.0 * (points.len().max(2) as f64).ln();
    // For each length of the series, its least cost and where its last stretch begins.
    let mut best: Vec<(f64, usize)> = vec![(-penalty, 0)];
    for end in 1..=points.len() {
        let cost = |first: usize| best[first].0 + sums.cost(first, end) + penalty;
        let first = (0..end).min_by(|a, b| cost(*a).total_cmp(&cost(*b))).unwrap_or(0);
        best.push((cost(first), first));
    }
    let mut found = Vec::new();
    let mut end = points.len();
    while end > 0 {
        let first = best[end].1;
        found.push(Stretch { first, end, level: sums.level(first, end) });
        end = first;
    }
    found.reverse();
    found
}

/// Running sums of weights, weighted values and weighted squares: what any stretch costs is a difference of them.
struct Sums {
    sums: Vec<[f64; 3]>,
    origin: f64,
}

impl Sums {
    fn of(points: &[Point]) -> Self {
        // Values are taken from the first one, so that squares of large numbers do not swallow small differences.
        let origin = points.first().map_or(0.0, |point| point.value);
        let mut sums = vec![[0.0; 3]];
        let mut sum = [0.0; 3];
        for point in points {
            let (weight, value) = (point.error.powi(-2), point.value - origin);
            sum = [sum[0] + weight, sum[1] + weight * value, sum[2] + weight * value * value];
            sums.push(sum);
        }
        Sums { sums, origin }
    }

    fn between(&self, first: usize, end: usize) -> [f64; 3] {
        let (low, high) = (self.sums[first], self.sums[end]);
        [high[0] - low[0], high[1] - low[1], high[2] - low[2]]
    }

    fn cost(&self, first: usize, end: usize) -> f64 {
        let [weights, values, squares] = self.between(first, end);
        (squares - values * values / weights).max(0.0)
    }

    fn level(&self, first: usize, end: usize) -> f64 {
        let [weights, values, _] = self.between(first, end);
        self.origin + values / weights
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{SeedableRng, rngs::SmallRng};
    use rand_distr::{Distribution, Normal};

    fn series(levels: &[(usize, f64)], error: f64, seed: u64) -> Vec<Point> {
        let mut random = SmallRng::seed_from_u64(seed);
        let noise = Normal::new(0.0, error).unwrap();
        let level = levels.iter().flat_map(|(points, level)| vec![*level; *points]);
        level.map(|level| Point { value: level + noise.sample(&mut random), error }).collect()
    }

    #[test]
    fn a_step_is_found_where_it_is() {
        let found = stretches(&series(&[(12, 3.0), (9, 6.0), (10, 2.0)], 0.4, 1));
        let cuts: Vec<(usize, usize)> =
            found.iter().map(|stretch| (stretch.first, stretch.end)).collect();
        assert_eq!(cuts, [(0, 12), (12, 21), (21, 31)]);
        assert!((found[1].level - 6.0).abs() < 0.4, "{found:?}");
    }

    #[test]
    fn a_level_series_is_cut_in_at_most_one_of_twenty() {
        let cut =
            (0..400).filter(|seed| stretches(&series(&[(30, 3.0)], 0.4, *seed)).len() > 1).count();
        assert!(cut <= 20, "{cut} of 400");
    }

    #[test]
    fn what_a_layout_explains_is_no_change() {
        let step = |error| {
            let points = series(&[(5, 3.0), (5, 4.0)], 0.05, 3).into_iter();
            stretches(&points.map(|point| Point { error, ..point }).collect::<Vec<_>>()).len()
        };
        assert_eq!(step(0.1), 2, "one point is a change for a run's noise");
        assert_eq!(step(1.0), 1, "and none where layouts move it as far");
    }

    #[test]
    fn large_counts_keep_their_small_differences() {
        let count = |value| Point { value, error: 20.0 };
        let points: Vec<Point> = [vec![count(1e10); 5], vec![count(1e10 + 100.0); 5]].concat();
        let found = stretches(&points);
        assert_eq!(found.iter().map(|stretch| stretch.end).collect::<Vec<_>>(), [5, 10]);
        assert_eq!(found[1].level, 1e10 + 100.0);
    }

    #[test]
    fn nothing_has_no_stretches_and_one_point_has_one() {
        assert_eq!(stretches(&[]), []);
        let found = stretches(&[Point { value: 2.0, error: 1.0 }]);
        assert_eq!(found, [Stretch { first: 0, end: 1, level: 2.0 }]);
    }
}
