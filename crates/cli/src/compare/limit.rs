//! How much slower is too much: `2%`, or `fork*=1.5%` for some rows.

use std::str::FromStr;

use kpkeys_stats::contrast::{Change, Contrast, Measure, Verdict};
use wildmatch::WildMatch;

/// A limit on some rows and groups, or on all.
#[derive(Clone, Debug)]
pub struct Limit {
    pattern: Option<String>,
    percent: f64,
}

impl FromStr for Limit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (pattern, limit) = text
            .rsplit_once('=')
            .map_or((None, text), |(pattern, limit)| (Some(pattern.to_owned()), limit));
        Ok(Limit { pattern, percent: percent(limit)? })
    }
}

/// A share in percent, with or without its sign.
///
/// # Errors
///
/// What is no number of at least 0.
pub fn percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').unwrap_or(text).trim();
    match number.parse() {
        Ok(percent) if f64::is_finite(percent) && percent >= 0.0 => Ok(percent),
        _ => Err(format!("`{text}` is no percentage; expected such as 2 or 1.5%")),
    }
}

/// Everything over a limit, and what keeps a limit from being checked. Of comparisons that belong `together`, layouts of the same two
/// builds, only what all of them show.
pub fn failures(contrasts: &[Contrast], limits: &[Limit], together: bool) -> Vec<String> {
    if limits.is_empty() {
        return Vec::new();
    }
    let unchecked: Vec<String> = contrasts.iter().filter_map(unchecked).collect();
    if !unchecked.is_empty() {
        return unchecked;
    }
    let found: Vec<Vec<Failure>> = contrasts.iter().map(|contrast| of(contrast, limits)).collect();
    let in_all = |failure: &Failure| {
        found.iter().all(|found| found.iter().any(|other| other.what == failure.what))
    };
    let all = found.iter().flatten().filter(|failure| !together || in_all(failure));
    all.map(|Failure { what, by }| format!("{what}: {by}")).collect()
}

/// One thing over its limit.
struct Failure {
    what: String,
    by: String,
}

/// Why nothing can be said of a limit.
fn unchecked(contrast: &Contrast) -> Option<String> {
    let Contrast { before, after, .. } = contrast;
    if !contrast.conclusive {
        let meant = contrast.differences.iter().filter(|difference| !difference.accepted);
        let why = meant.map(ToString::to_string).collect::<Vec<_>>().join("; ");
        let remedy = "--across names what is meant to differ";
        return Some(format!("{before} and {after} cannot be compared ({why}); {remedy}"));
    }
    (!contrast.can_decide).then(|| {
        format!("{before} and {after}: too few blocks to prove anything slower; a limit needs more")
    })
}

fn of(contrast: &Contrast, limits: &[Limit]) -> Vec<Failure> {
    let rows = contrast.changes().filter_map(|(row, change)| {
        over(limits, &[&row.benchmark, &row.result_class], &row.result_class, change)
    });
    let groups = contrast.groups.iter().flat_map(|group| {
        let name = format!("{}, {} rows together", group.benchmark, group.rows);
        let over = move |change| over(limits, &[&group.benchmark], &name, change);
        group.changes.iter().filter_map(over)
    });
    rows.chain(groups).collect()
}

/// A change that is proven and over the last limit that names it.
fn over(limits: &[Limit], names: &[&str], shown: &str, change: &Change) -> Option<Failure> {
    let named = |limit: &&Limit| {
        limit.pattern.as_ref().is_none_or(|pattern| {
            let pattern = WildMatch::new(pattern);
            names.iter().any(|name| pattern.matches(name))
        })
    };
    let limit = limits.iter().rev().find(named)?.percent;
    let measure = match change.measure {
        Measure::Time => "time",
        Measure::Effect => "effect",
    };
    let is_over = change.verdict == Some(Verdict::Slower) && change.change_pct > limit;
    is_over.then(|| Failure {
        what: format!("{shown}, {} {measure}", change.mode),
        by: format!("{:+.2} %, the limit is {limit} %", change.change_pct),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use kpkeys_stats::record::Mode;

    fn change(change_pct: f64, verdict: Option<Verdict>) -> Change {
        Change {
            mode: Mode::Batched,
            measure: Measure::Time,
            before: None,
            after: None,
            change_pct,
            ci_low_pct: None,
            ci_high_pct: None,
            p: None,
            p_holm: None,
            blocks: 12,
            verdict,
        }
    }

    fn limits(texts: &[&str]) -> Vec<Limit> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_limit_is_broken_by_what_is_proven_and_larger() {
        let over = |limit: &str, percent, verdict| {
            over(&limits(&[limit]), &["fork", "fork: h:0"], "fork: h:0", &change(percent, verdict))
                .map(|Failure { what, by }| format!("{what}: {by}"))
        };
        let found = over("2%", 3.0, Some(Verdict::Slower)).unwrap();
        assert_eq!(found, "fork: h:0, batched time: +3.00 %, the limit is 2 %");
        assert_eq!(over("3", 3.0, Some(Verdict::Slower)), None);
        assert_eq!(over("2", 3.0, Some(Verdict::Undecided)), None);
        assert_eq!(over("2", 3.0, None), None);
        assert!(over("fork*=2", 3.0, Some(Verdict::Slower)).is_some());
        assert_eq!(over("munmap*=2", 3.0, Some(Verdict::Slower)), None);
    }

    #[test]
    fn the_last_limit_that_names_a_row_is_the_one() {
        let limits = limits(&["1%", "fork: h:0=5%"]);
        let slower = change(3.0, Some(Verdict::Slower));
        assert!(over(&limits, &["fork", "fork: h:0"], "", &slower).is_none());
        assert!(over(&limits, &["fork", "fork: h:1"], "", &slower).is_some());
    }

    #[test]
    fn what_is_no_percentage_is_refused() {
        for text in ["", "two", "-1", "nan", "fork=", "inf"] {
            assert!(text.parse::<Limit>().unwrap_err().contains("no percentage"), "{text}");
        }
    }
}
