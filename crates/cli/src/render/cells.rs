//! What stands in a single cell.

use kpkeys_stats::{
    compare::ReferenceEffect,
    cost::{BaseSource, Projection},
    flag::Flag,
    record::Unit,
    table::Effect,
};

/// What stands where there is nothing to show.
pub const NONE: &str = "-";

/// The mark of a baseline that was recorded, on the machine that made the recording.
pub const RECORDED: &str = "†";

/// An effect in percent with what may be said of it. Without a flag the half width of the 95 %
/// interval stands in its place, so that an undecided effect is never read as none.
pub fn effect(effect: &Effect) -> String {
    match (effect.flag, effect.half_width_pct) {
        (Some(flag), _) => format!("{} ({})", signed(effect.effect_pct, 2), flag.letter()),
        (None, Some(half)) => format!("{} ±{half:.2}", signed(effect.effect_pct, 2)),
        (None, None) => format!("{} ±?", signed(effect.effect_pct, 2)),
    }
}

/// An effect of another table, a little shorter. Published tables give no intervals: what they do
/// not flag is marked `?`.
pub fn reference_effect(effect: &ReferenceEffect) -> String {
    let half = effect.ci_high_pct.zip(effect.ci_low_pct).map(|(high, low)| (high - low) / 2.0);
    let mark = match (effect.flag, half) {
        (Some(flag), _) => flag.letter().to_owned(),
        (None, Some(half)) => format!("±{half:.2}"),
        (None, None) => "?".to_owned(),
    };
    format!("{} {mark}", signed(effect.effect_pct, 2))
}

/// The letter of a flag alone.
pub fn letter(flag: Option<Flag>) -> &'static str {
    flag.map_or(NONE, Flag::letter)
}

/// A projected effect, shorter than a measured one; `*` where costs of the other machine stand on
/// times of this one.
pub fn projection(projection: &Projection) -> String {
    let digits = if projection.effect_pct.abs() < 10.0 { 1 } else { 0 };
    let mark = if projection.base == BaseSource::Measured { "*" } else { "" };
    format!("{}{mark}", signed(projection.effect_pct, digits))
}

/// A number with its sign. Nothing is shown as minus zero.
pub fn signed(value: f64, digits: usize) -> String {
    let text = format!("{value:+.digits$}");
    let is_zero = !text.contains(|c: char| ('1'..='9').contains(&c));
    if is_zero { text.replace('-', "+") } else { text }
}

/// A baseline with a unit that suits its size, in three digits.
pub fn quantity(value: f64, unit: Option<Unit>) -> String {
    let steps: [(f64, &str); 4] = match unit {
        Some(Unit::Ns) | None => [(1e9, "s"), (1e6, "ms"), (1e3, "µs"), (1.0, "ns")],
        Some(Unit::Cycles) => [(1e9, "Gcyc"), (1e6, "Mcyc"), (1e3, "kcyc"), (1.0, "cyc")],
        Some(Unit::Instructions) => [(1e9, "Gins"), (1e6, "Mins"), (1e3, "kins"), (1.0, "ins")],
    };
    // 999.6 would be printed as 1000: go to the next unit where rounding gets there.
    let fits = |(size, _): &&(f64, &str)| value.abs() >= 0.9995 * size;
    let (size, name) = steps.iter().find(fits).unwrap_or(&steps[3]);
    format!("{} {name}", three_digits(value / size))
}

fn three_digits(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 99.95 => 0,
        size if size >= 9.995 => 1,
        _ => 2,
    };
    format!("{value:.digits$}")
}

/// A number of events: whole numbers with separators, averages with a few digits.
pub fn count(value: f64) -> String {
    if value.fract() == 0.0 && value.abs() < 1e15 {
        return separated(value);
    }
    match value.abs() {
        size if size >= 1000.0 => separated(value.round()),
        size if size >= 1.0 => format!("{value:.1}"),
        size if size >= 0.01 => format!("{value:.3}"),
        // A rare event is not to be read as none.
        _ => format!("{value:.1e}"),
    }
}

fn separated(whole: f64) -> String {
    let digits = format!("{:.0}", whole.abs());
    let grouped = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy);
    let sign = if whole < 0.0 { "-" } else { "" };
    format!("{sign}{}", grouped.collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_get_the_unit_that_suits_them() {
        let ns = |value| quantity(value, Some(Unit::Ns));
        assert_eq!(ns(0.5), "0.50 ns");
        assert_eq!(ns(162.4), "162 ns");
        assert_eq!(ns(674.0), "674 ns");
        assert_eq!(ns(999.7), "1.00 µs");
        assert_eq!(ns(23_679.0), "23.7 µs");
        assert_eq!(ns(11_512_345.0), "11.5 ms");
        assert_eq!(ns(2.5e9), "2.50 s");
        assert_eq!(quantity(1.1e7, Some(Unit::Instructions)), "11.0 Mins");
    }

    #[test]
    fn counts_are_exact_where_they_are_whole() {
        assert_eq!(count(0.0), "0");
        assert_eq!(count(524_288.0), "524,288");
        assert_eq!(count(1_048_576.0), "1,048,576");
        assert_eq!(count(100.97), "101.0");
        assert_eq!(count(0.05), "0.050");
        assert_eq!(count(0.000_036), "3.6e-5");
        assert_eq!(count(1234.5), "1,235");
    }

    #[test]
    fn zero_has_no_minus() {
        assert_eq!(signed(-0.001, 2), "+0.00");
        assert_eq!(signed(-0.01, 2), "-0.01");
        assert_eq!(signed(221.391, 2), "+221.39");
    }
}
