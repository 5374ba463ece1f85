//! Costs, measured here: a switch and a barrier, each in a loop of its own.
//!
//! That is what they cost among other work too, where what else a mode executes is counted apart. Measured several times, since a machine
//! that is not quiet gives another figure each time: the range is that over the times, and where it is wide the costs are worth nothing.

use kpkeys_hosted::{barrier_ns, switch_ns};
use kpkeys_pgtable::entry::Aarch64;
use kpkeys_stats::cost::UnitCost;
use kpkeys_stats::predict::Costs;

use crate::bench::worker::stay_on_one_cpu;

/// How often each is measured. Each time takes the fastest of twenty loops.
const TIMES: usize = 15;

/// What events cost on this machine.
pub fn here(machine: String) -> Costs {
    stay_on_one_cpu();
    Costs {
        machine,
        source: format!(
            "measured here, {TIMES} times; a process executes no TLB flush, so a key change is its instructions"
        ),
        switch: range((0..TIMES).map(|_| switch_ns::<Aarch64>()).collect()),
        barrier: range((0..TIMES).map(|_| barrier_ns()).collect()),
        key_change: UnitCost::exactly(0.0),
    }
}

/// How far a cost may be off that a run recorded once: what loops of one quiet machine differ by from one moment to the next.
const RECORDED_WITHIN: f64 = 0.1;

/// What events cost on the machine of a run, which recorded what a switch took there.
pub fn recorded(machine: String, switch_ns: f64) -> Costs {
    let within = |share: f64| UnitCost {
        ns: 0.5 * switch_ns,
        low_ns: (0.5 - share) * switch_ns,
        high_ns: (0.5 + share) * switch_ns,
    };
    Costs {
        machine,
        source: "recorded by the run; its barrier is taken to be a quarter to three quarters of a switch; a process executes no TLB flush, so a key change is its instructions"
            .to_owned(),
        switch: UnitCost {
            ns: switch_ns,
            low_ns: (1.0 - RECORDED_WITHIN) * switch_ns,
            high_ns: (1.0 + RECORDED_WITHIN) * switch_ns,
        },
        barrier: within(0.25),
        key_change: UnitCost::exactly(0.0),
    }
}

/// The median, with the smallest and the largest, a tenth away from it at least.
fn range(mut values: Vec<f64>) -> UnitCost {
    values.sort_by(f64::total_cmp);
    let ns = values[values.len() / 2];
    let (low, high) = (values[0], values[values.len() - 1]);
    UnitCost {
        ns,
        low_ns: low.min((1.0 - RECORDED_WITHIN) * ns),
        high_ns: high.max((1.0 + RECORDED_WITHIN) * ns),
    }
}

/// Ends of a range further apart than this, as a share of its middle, say more about the machine's mood than about its switches.
const WORTHLESS: f64 = 0.5;

/// Why costs are worth nothing, if they are: a range that is measured, and wide.
pub fn worthless(costs: &Costs) -> Option<String> {
    let UnitCost { ns, low_ns, high_ns } = costs.switch;
    ((high_ns - low_ns) > WORTHLESS * ns).then(|| {
        format!(
            "a switch was measured between {low_ns:.1} and {high_ns:.1} ns within a moment: this machine is not quiet, and expectations from it are worth nothing (`kpkeys doctor` says what disturbs; --switch-ns takes a figure)"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_that_of_the_times_and_a_tenth_at_least() {
        assert_eq!(range(vec![10.0; 3]), UnitCost { ns: 10.0, low_ns: 9.0, high_ns: 11.0 });
        let wide = range(vec![20.0, 8.0, 10.0]);
        assert_eq!((wide.ns, wide.low_ns, wide.high_ns), (10.0, 8.0, 20.0));
    }

    #[test]
    fn costs_that_scatter_are_worth_nothing_and_that_is_said() {
        let quiet = recorded("quiet".into(), 10.0);
        assert_eq!(worthless(&quiet), None);
        let loud = Costs { switch: range(vec![9.0, 10.0, 17.0]), ..quiet };
        let why = worthless(&loud).unwrap();
        assert!(why.contains("between 9.0 and 17.0 ns"), "{why}");
    }
}
