//! What must hold of all attacks together, and what is common to all gates.

use std::collections::HashSet;

use kpkeys_pgtable::Mode;
use kpkeys_workloads::attack::{Broken, Outcome, Promise};
use serde::Serialize;

use super::record::Attack;

/// Whether a gate held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Gate {
    /// It held.
    Pass,
    /// It did not.
    Fail,
    /// Nothing was made that it could be told from.
    NotRun,
}

/// Gates that were judged together.
pub trait Judged: Copy {
    /// Each with its name.
    fn named(self) -> impl IntoIterator<Item = (&'static str, Gate)>;

    /// The names of those that failed.
    fn failed(self) -> impl Iterator<Item = &'static str> {
        self.named().into_iter().filter(|(_, gate)| *gate == Gate::Fail).map(|(name, _)| name)
    }

    /// Whether none failed.
    fn hold(self) -> bool {
        self.failed().next().is_none()
    }

    /// All of them in a line.
    fn line(self) -> String {
        let gates = self.named().into_iter().map(|(name, gate)| format!("{name} {}", gate.name()));
        format!("gates: {}", gates.collect::<Vec<_>>().join(", "))
    }
}

/// All gates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Gates {
    /// Mode `off`: every attack succeeded, and every attack blocked elsewhere was among them. Otherwise blocking it would prove
    /// nothing.
    pub off: Gate,
    /// Every attack promised to be blocked was, by the protection under test.
    pub blocked: Gate,
    /// A page that is data again can be written.
    pub reuse: Gate,
    /// The kernel came to the same conclusion, and its check of all tables afterwards found nothing.
    pub kernel: Gate,
    /// Where protection was asked for, there was some: the kernel did not fall back to the backend `none`.
    pub protection: Gate,
}

impl Gates {
    /// Judges attacks.
    pub fn of(attacks: &[Attack], kernel_agrees: bool, unprotected: bool) -> Gates {
        let in_off: Vec<_> = attacks.iter().filter(|attack| attack.mode == Mode::Off).collect();
        let succeeded: HashSet<_> = in_off
            .iter()
            .filter(|attack| attack.outcome == Outcome::Succeeded)
            .map(|attack| (attack.target, attack.primitive))
            .collect();
        let promised: Vec<_> =
            attacks.iter().filter(|attack| attack.promised == Promise::Blocked).collect();
        let proves_something =
            promised.iter().all(|attack| succeeded.contains(&(attack.target, attack.primitive)));
        let reused = attacks.iter().map(Attack::check);
        Gates {
            off: gate(!in_off.is_empty(), succeeded.len() == in_off.len() && proves_something),
            blocked: gate(
                !promised.is_empty(),
                promised.iter().all(|attack| attack.check().is_ok()),
            ),
            reuse: gate(
                !attacks.is_empty(),
                !reused.into_iter().any(|result| result == Err(Broken::Unwritable)),
            ),
            kernel: gate(!attacks.is_empty(), kernel_agrees),
            protection: gate(attacks.iter().any(|attack| attack.mode != Mode::Off), !unprotected),
        }
    }
}

impl Judged for Gates {
    fn named(self) -> impl IntoIterator<Item = (&'static str, Gate)> {
        [
            ("off", self.off),
            ("blocked", self.blocked),
            ("reuse", self.reuse),
            ("kernel", self.kernel),
            ("protection", self.protection),
        ]
    }
}

impl Gate {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Gate::Pass => "pass",
            Gate::Fail => "FAIL",
            Gate::NotRun => "not run",
        }
    }
}

pub(super) fn gate(was_run: bool, held: bool) -> Gate {
    match (was_run, held) {
        (false, _) => Gate::NotRun,
        (true, true) => Gate::Pass,
        (true, false) => Gate::Fail,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kpkeys_workloads::attack::{Fault, Primitive, Target};

    const KEY: Outcome = Outcome::Faulted(Fault { code: 0x23, address: 0, by_protection: true });
    const OTHER: Outcome = Outcome::Faulted(Fault { code: 0x2, address: 0, by_protection: false });

    fn attack(mode: Mode, outcome: Outcome, promised: Promise) -> Attack {
        Attack {
            mode,
            target: Target::Early,
            primitive: Primitive::Word,
            outcome,
            promised,
            code: None,
        }
    }

    fn gates(attacks: &[Attack]) -> Gates {
        Gates::of(attacks, true, false)
    }

    #[test]
    fn what_is_blocked_must_have_worked_without_protection() {
        let off = attack(Mode::Off, Outcome::Succeeded, Promise::None);
        let blocked = attack(Mode::Fused, KEY, Promise::Blocked);
        let both = gates(&[off.clone(), blocked.clone()]);
        assert!(both.hold() && both.off == Gate::Pass && both.blocked == Gate::Pass);
        let other = Attack { primitive: Primitive::Byte, ..off };
        assert_eq!(gates(&[other, blocked]).off, Gate::Fail);
    }

    #[test]
    fn mode_off_must_not_block() {
        assert_eq!(gates(&[attack(Mode::Off, KEY, Promise::None)]).off, Gate::Fail);
    }

    #[test]
    fn a_promise_is_kept_by_the_key_alone() {
        for outcome in [Outcome::Succeeded, OTHER] {
            let gates = gates(&[attack(Mode::Batched, outcome, Promise::Blocked)]);
            assert_eq!(gates.blocked, Gate::Fail, "{outcome:?}");
            assert!(!gates.hold());
        }
    }

    #[test]
    fn data_must_be_writable_again() {
        let stuck = attack(Mode::Fused, KEY, Promise::Succeeds);
        assert_eq!(gates(&[stuck]).reuse, Gate::Fail);
    }

    #[test]
    fn the_kernel_has_a_say() {
        let off = attack(Mode::Off, Outcome::Succeeded, Promise::None);
        assert_eq!(Gates::of(&[off], false, false).kernel, Gate::Fail);
    }

    #[test]
    fn no_protection_where_some_was_asked_for_fails() {
        let open =
            [Mode::Off, Mode::Fused].map(|mode| attack(mode, Outcome::Succeeded, Promise::None));
        assert!(Gates::of(&open, true, false).hold());
        let gates = Gates::of(&open, true, true);
        assert!(gates.protection == Gate::Fail && !gates.hold());
        assert_eq!(Gates::of(&open[..1], true, false).protection, Gate::NotRun);
    }
}
