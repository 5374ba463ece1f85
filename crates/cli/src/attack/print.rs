//! The verdict in a line, then the tables: a mode's attacks, target by primitive.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use anstyle::AnsiColor;
use kpkeys_pgtable::Mode;
use kpkeys_workloads::attack::{Outcome, Primitive, Promise, Target};

use super::Report;
use super::record::Attack;
use crate::render::Screen;

/// What the symbols mean.
const LEGEND: &str = "B blocked, as promised   S succeeded, nothing was promised\n\
                      b blocked, though nothing was promised   ! not as it must be   . no such attack";
/// Where it is written what is promised.
const PROMISES: &str = "docs/src/attacks.md";
/// Width of the column of targets.
const TARGET_COLUMNS: usize = 20;

/// Writes the verdict, the tables, the legend and the gates.
///
/// # Errors
///
/// What writing failed with.
pub fn write(out: &mut impl Write, report: &Report, screen: Screen) -> io::Result<()> {
    let colour = if report.gates.hold() { AnsiColor::Green } else { AnsiColor::Red };
    writeln!(out, "{}", screen.painted(&verdict(report), colour))?;
    writeln!(out, "attacks on {}, backend {}", report.on, report.backend)?;
    let columns = columns(&report.results);
    for mode in Mode::ALL {
        let attacks = of_mode(report, mode);
        if !attacks.is_empty() {
            write_mode(out, mode, &attacks, &columns, screen)?;
        }
    }
    writeln!(out, "\n{LEGEND}")?;
    for attack in &report.results {
        if let Err(broken) = attack.check() {
            let Attack { mode, target, primitive, .. } = attack;
            writeln!(out, "\nmode {}: {primitive} on {target} {broken}", mode.name())?;
        }
    }
    let gates = report.gates.named().map(|(name, gate)| format!("{name} {}", gate.name()));
    writeln!(out, "\ngates: {}", gates.join(", "))
}

fn of_mode(report: &Report, mode: Mode) -> Vec<&Attack> {
    report.results.iter().filter(|attack| attack.mode == mode).collect()
}

/// What came of all of it, in one sentence.
fn verdict(report: &Report) -> String {
    let is_promised = |attack: &&Attack| attack.promised == Promise::Blocked;
    let promised: Vec<&Attack> = report.results.iter().filter(is_promised).collect();
    let kept = promised.iter().filter(|attack| attack.check().is_ok()).count();
    let failed: Vec<_> = report.gates.failed().collect();
    if kept < promised.len() {
        let broken = promised.len() - kept;
        return format!(
            "PROTECTION FAILED: {broken} of {} promised attacks were not blocked",
            promised.len()
        );
    }
    if !failed.is_empty() {
        return format!("FAILED: not everything was as it must be, gate {}", failed.join(", "));
    }
    if promised.is_empty() {
        return format!(
            "nothing was promised, and nothing is protected: backend {}",
            report.backend
        );
    }
    let left = Mode::ALL.into_iter().filter_map(|mode| {
        let attacks = of_mode(report, mode);
        let others = attacks.iter().filter(|attack| !is_promised(attack)).count();
        (others < attacks.len())
            .then(|| format!("{others} of {} in {}", attacks.len(), mode.name()))
    });
    let left = left.collect::<Vec<_>>().join(", ");
    format!("every promised attack was blocked; {left} are not promised, see {PROMISES}")
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
    screen: Screen,
) -> io::Result<()> {
    writeln!(out)?;
    write_heads(out, mode, columns)?;
    for target in Target::all() {
        write!(out, "{target:<TARGET_COLUMNS$}")?;
        for &primitive in columns {
            let attack = attacks
                .iter()
                .find(|attack| attack.target == target && attack.primitive == primitive);
            write!(out, " {}", attack.map_or(".".to_owned(), |attack| symbol(attack, screen)))?;
        }
        writeln!(out)?;
    }
    write_summary(out, attacks)
}

/// The names of the columns, as stairs that lead down to them.
fn write_heads(out: &mut impl Write, mode: Mode, columns: &[Primitive]) -> io::Result<()> {
    let mut name = format!("mode {}", mode.name());
    for (index, primitive) in columns.iter().enumerate() {
        writeln!(out, "{name:<TARGET_COLUMNS$}{} {primitive}", " │".repeat(index))?;
        name.clear();
    }
    Ok(())
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

fn symbol(attack: &Attack, screen: Screen) -> String {
    match (attack.check(), attack.promised, attack.outcome) {
        (Err(_), _, _) => screen.painted("!", AnsiColor::Red),
        (_, Promise::Blocked, _) => screen.painted("B", AnsiColor::Green),
        (_, Promise::None, Outcome::Succeeded) => "S".to_owned(),
        (_, Promise::None, Outcome::Faulted(_) | Outcome::Refused) => "b".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attack::gates::Gates;
    use kpkeys_workloads::attack::Fault;

    const KEY: Outcome = Outcome::Faulted(Fault { code: 0x23, address: 0, by_protection: true });

    fn attack(mode: Mode, primitive: Primitive, outcome: Outcome, promised: Promise) -> Attack {
        Attack { mode, target: Target::Early, primitive, outcome, promised, code: None }
    }

    fn printed(results: Vec<Attack>) -> String {
        let gates = Gates::of(&results, true, false);
        let report = Report { on: "here".into(), backend: "pks".into(), results, gates };
        let mut out = Vec::new();
        write(&mut out, &report, Screen::FULL).unwrap();
        String::from_utf8(out).unwrap()
    }

    /// Every primitive with protection off, and in `fused`, where those promised are blocked.
    fn all() -> Vec<Attack> {
        let promised =
            |primitive| if primitive == Primitive::Byte { Promise::None } else { Promise::Blocked };
        let off =
            Primitive::ALL.map(|how| attack(Mode::Off, how, Outcome::Succeeded, Promise::None));
        let fused = Primitive::ALL.map(|how| {
            let outcome = if promised(how) == Promise::None { Outcome::Succeeded } else { KEY };
            attack(Mode::Fused, how, outcome, promised(how))
        });
        off.into_iter().chain(fused).collect()
    }

    #[test]
    fn the_verdict_comes_first_with_the_counts_of_the_run() {
        let made = Primitive::ALL.len();
        let text = printed(all());
        let verdict = text.lines().next().unwrap();
        assert_eq!(
            verdict,
            format!(
                "every promised attack was blocked; 1 of {made} in fused are not promised, see docs/src/attacks.md"
            )
        );
        let mut broken = all();
        broken.last_mut().unwrap().outcome = Outcome::Succeeded;
        let promised = made - 1;
        let verdict = printed(broken).lines().next().unwrap().to_owned();
        assert_eq!(
            verdict,
            format!("PROTECTION FAILED: 1 of {promised} promised attacks were not blocked")
        );
    }

    #[test]
    fn columns_have_the_names_of_their_attacks_and_fit_80_columns() {
        let text = printed(all());
        for (index, primitive) in Primitive::ALL.iter().enumerate() {
            let place = TARGET_COLUMNS + 1 + 2 * index;
            let named = text.lines().filter(|line| {
                line.chars().skip(place).collect::<String>() == primitive.to_string()
            });
            assert_eq!(named.count(), 2, "{primitive}, once for each mode");
        }
        let tables = text.lines().skip(1);
        assert!(tables.map(|line| line.chars().count()).max() <= Some(80), "{text}");
    }
}
