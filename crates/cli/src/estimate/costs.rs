//! Costs of CPUs that somebody measured, and costs that are given.
//!
//! The list holds figures with a source, and what was made of them: an ISB is part of a switch, not all of it. No key change is known of
//! any but Graviton3; others are given its range, halved and doubled. Of MSR PAN, of POR_EL1 on silicon and of WRMSR to IA32_PKRS no
//! figure is known: nobody's estimate should come from here, and `--switch-ns` takes one's own.

use kpkeys_stats::cost::UnitCost;
use kpkeys_stats::predict::Costs;
use serde::Serialize;

use crate::usage::UsageError;

/// A CPU of the list.
#[derive(Serialize)]
pub struct Known {
    /// What it is asked for by.
    pub name: &'static str,
    /// Backends of which its switch is one, or as near as is known.
    pub backends: &'static [&'static str],
    /// Where that is from, and what was made of it.
    pub source: &'static str,
    switch: UnitCost,
    barrier: UnitCost,
    key_change: UnitCost,
}

const fn between(low_ns: f64, high_ns: f64) -> UnitCost {
    UnitCost { ns: f64::midpoint(low_ns, high_ns), low_ns, high_ns }
}

/// Derived from the series' two tables.
const GRAVITON3_KEY: UnitCost = between(440.0, 710.0);
/// Where none is known.
const SOME_KEY: UnitCost = between(220.0, 1420.0);

/// Every CPU of the list.
pub const KNOWN: [Known; 5] = [
    Known {
        name: "graviton3",
        backends: &["mock", "poe"],
        source: "CONTEXTIDR_EL1 + ISB and a key change with its flush, derived from the series' rows (linux-hardening, August 2025)",
        switch: between(12.5, 20.0),
        barrier: between(9.0, 13.2),
        key_change: GRAVITON3_KEY,
    },
    Known {
        name: "neoverse-n1",
        backends: &["mock", "poe"],
        source: "an ISB alone, 13.2 ns, measured by others; the register write adds 0 to 7 ns; key change as on Graviton3, halved to doubled",
        switch: between(13.2, 20.0),
        barrier: UnitCost::exactly(13.2),
        key_change: SOME_KEY,
    },
    Known {
        name: "cortex-a72",
        backends: &["mock"],
        source: "an ISB alone, 13.0 ns, measured by others; the register write adds 0 to 7 ns; key change as on Graviton3, halved to doubled",
        switch: between(13.0, 20.0),
        barrier: UnitCost::exactly(13.0),
        key_change: SOME_KEY,
    },
    Known {
        name: "apple-m1",
        backends: &["mock"],
        source: "an ISB alone, 9.1 ns, measured by others; the register write adds 0 to 7 ns; key change as on Graviton3, halved to doubled",
        switch: between(9.1, 16.0),
        barrier: UnitCost::exactly(9.1),
        key_change: SOME_KEY,
    },
    Known {
        name: "x86_64-virtual",
        backends: &["mock"],
        source: "LFENCE 4.6 ns and WRGSBASE + LFENCE 10 ns in a loop on a virtual machine (AMD EPYC); up to twice that among stores; key change of a process, without flush",
        switch: between(10.0, 20.0),
        barrier: UnitCost::exactly(4.6),
        key_change: between(10.0, 80.0),
    },
];

/// The costs of a CPU of the list, for a backend.
///
/// # Errors
///
/// [`UsageError`] with the CPUs, or the backends known of it.
pub fn known(name: &str, backend: &str) -> Result<Costs, UsageError> {
    let Some(known) = KNOWN.iter().find(|known| known.name == name) else {
        return Err(UsageError::unknown("machine", name, KNOWN.iter().map(|known| known.name)));
    };
    if !known.backends.contains(&backend) {
        let what = format!("backend whose cost is known on {name}");
        return Err(UsageError::unknown(&what, backend, known.backends.iter().copied()));
    }
    Ok(Costs {
        machine: format!("{name}, {backend}"),
        source: known.source.to_owned(),
        switch: known.switch,
        barrier: known.barrier,
        key_change: known.key_change,
    })
}

/// A cost on the command line: `16`, or `12.5-20`.
///
/// # Errors
///
/// What was expected.
pub fn parse(text: &str) -> Result<UnitCost, String> {
    let number = |text: &str| text.parse().ok().filter(|ns: &f64| ns.is_finite() && *ns >= 0.0);
    let cost = match text.split_once('-') {
        None => number(text).map(UnitCost::exactly),
        Some((low, high)) => number(low).zip(number(high)).map(|(low, high)| between(low, high)),
    };
    let in_order = |cost: &UnitCost| cost.low_ns <= cost.high_ns;
    cost.filter(in_order).ok_or_else(|| "expected nanoseconds, such as 16 or 12.5-20".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cost_is_a_number_or_a_range() {
        assert_eq!(parse("16"), Ok(UnitCost::exactly(16.0)));
        assert_eq!(parse("12.5-20"), Ok(between(12.5, 20.0)));
        for bad in ["", "x", "-1", "20-12", "1-", "NaN", "inf"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn unknown_machines_and_backends_are_answered_with_the_known_ones() {
        assert!(known("m68k", "mock").unwrap_err().0.contains("graviton3"));
        assert!(known("apple-m1", "pan").unwrap_err().0.contains("mock"));
        assert_eq!(known("graviton3", "poe").unwrap().key_change.high_ns, 710.0);
    }
}
