//! The table: a mode's attacks, target by primitive.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use kpkeys_pgtable::Mode;
use kpkeys_workloads::attack::{Outcome, Primitive, Promise, Target};

use super::Report;
use super::record::Attack;

/// What the symbols mean.
const LEGEND: &str = "B blocked, as promised   S succeeded, nothing was promised   b blocked, though nothing was promised\n\
                      ! not as it must be      . no such attack";

/// Writes the tables, the legend and the gates.
///
/// # Errors
///
/// What writing failed with.
pub fn write(out: &mut impl Write, report: &Report) -> io::Result<()> {
    writeln!(out, "attacks on {}, backend {}", report.on, report.backend)?;
    let columns = columns(&report.results);
    for mode in Mode::ALL {
        let attacks: Vec<_> = report.results.iter().filter(|attack| attack.mode == mode).collect();
        if !attacks.is_empty() {
            write_mode(out, mode, &attacks, &columns)?;
        }
    }
    writeln!(out, "\n{LEGEND}\n")?;
    for three in (1..).zip(&columns).collect::<Vec<_>>().chunks(3) {
        for (number, primitive) in three {
            write!(out, "{number:>4} {primitive:<24}")?;
        }
        writeln!(out)?;
    }
    for attack in &report.results {
        if let Err(broken) = attack.check() {
            let Attack { mode, target, primitive, .. } = attack;
            writeln!(out, "\nmode {}: {primitive} on {target} {broken}", mode.name())?;
        }
    }
    let gates = report.gates.named().map(|(name, gate)| format!("{name} {}", gate.name()));
    writeln!(out, "\ngates: {}", gates.join(", "))
}

/// The primitives that some attack was made by: not every machine has all.
fn columns(attacks: &[Attack]) -> Vec<Primitive> {
    let made = |primitive: &Primitive| attacks.iter().any(|attack| attack.primitive == *primitive);
    Primitive::ALL.into_iter().filter(made).collect()
}

fn write_mode(
    out: &mut impl Write,
    mode: Mode,
    attacks: &[&Attack],
    columns: &[Primitive],
) -> io::Result<()> {
    write!(out, "\n{:<18}", format!("mode {}", mode.name()))?;
    for number in 1..=columns.len() {
        write!(out, "{number:>4}")?;
    }
    writeln!(out)?;
    for target in Target::all() {
        write!(out, "{target:<18}")?;
        for &primitive in columns {
            let attack = attacks
                .iter()
                .find(|attack| attack.target == target && attack.primitive == primitive);
            write!(out, "{:>4}", attack.map_or('.', |attack| symbol(attack)))?;
        }
        writeln!(out)?;
    }
    write_summary(out, attacks)
}

fn write_summary(out: &mut impl Write, attacks: &[&Attack]) -> io::Result<()> {
    let mut outcomes = BTreeMap::new();
    for attack in attacks {
        *outcomes.entry(attack.outcome.name()).or_insert(0) += 1;
    }
    let outcomes: Vec<_> = outcomes.iter().map(|(name, count)| format!("{count} {name}")).collect();
    let codes: BTreeSet<_> = attacks.iter().filter_map(|attack| attack.code).collect();
    let codes: Vec<_> = codes.iter().map(|code| format!("{code:#x}")).collect();
    let codes =
        if codes.is_empty() { String::new() } else { format!(", fault codes {}", codes.join(" ")) };
    writeln!(out, "{} attacks: {}{codes}", attacks.len(), outcomes.join(", "))
}

fn symbol(attack: &Attack) -> char {
    match (attack.check(), attack.promised, attack.outcome) {
        (Err(_), _, _) => '!',
        (_, Promise::Blocked, _) => 'B',
        (_, Promise::None, Outcome::Succeeded) => 'S',
        (_, Promise::None, Outcome::Faulted(_) | Outcome::Refused) => 'b',
    }
}
