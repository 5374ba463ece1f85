//! The verdict in a line, then the tables: a mode's attacks, target by primitive.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use anstyle::AnsiColor;
use kpkeys_pgtable::Mode;
use kpkeys_workloads::attack::{Outcome, Primitive, Promise, Target};

use super::Report;
use super::record::Attack;
use crate::attack::gates::Judged;
use crate::render::Screen;

/// What the symbols mean.
const LEGEND: &str = "B blocked, as promised   S succeeded, nothing was promised\n\
                      b blocked, though nothing was promised   w written, as it must be\n\
                      ! not as it must be   . no such attack";
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
    for mode in Mode::ALL {
        let attacks = of_mode(report, mode);
        if !attacks.is_empty() {
            write_mode(out, mode, &attacks, screen)?;
        }
    }
    writeln!(out, "\n{LEGEND}")?;
    write_not_promised(out, report)?;
    for attack in &report.results {
        if let Err(broken) = attack.check() {
            let Attack { mode, target, primitive, .. } = attack;
            writeln!(out, "\nmode {}: {primitive} on {target} {broken}", mode.name())?;
        }
    }
    writeln!(out, "\n{}", report.gates.line())
}

fn of_mode(report: &Report, mode: Mode) -> Vec<&Attack> {
    report.results.iter().filter(|attack| attack.mode == mode).collect()
}

/// What came of all of it, in one sentence.
fn verdict(report: &Report) -> String {
    let is_promised = |attack: &Attack| attack.promised == Promise::Blocked;
    let promised: Vec<&Attack> =
        report.results.iter().filter(|attack| is_promised(attack)).collect();
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
        let others = attacks.iter().filter(|attack| attack.promised == Promise::None).count();
        attacks
            .iter()
            .any(|attack| is_promised(attack))
            .then(|| format!("{others} of {} in {}", attacks.len(), mode.name()))
    });
    let left = left.collect::<Vec<_>>().join(", ");
    format!("every promised attack was blocked; {left} are not promised, see {PROMISES}")
}

/// Which attacks nothing is promised of in `fused`, by name: the threat model has a sentence for each.
fn write_not_promised(out: &mut impl Write, report: &Report) -> io::Result<()> {
    let attacks = of_mode(report, Mode::Fused);
    let open = attacks.iter().filter(|attack| attack.promised == Promise::None);
    let open: Vec<_> =
        open.map(|attack| format!("{} on {}", attack.primitive, attack.target)).collect();
    // With no backend that enforces nothing is promised of anything.
    if open.is_empty() || open.len() == attacks.len() {
        return Ok(());
    }
    writeln!(out, "\nnot promised in fused: {}", open.join(", "))
}

fn write_mode(
    out: &mut impl Write,
    mode: Mode,
    attacks: &[&Attack],
    screen: Screen,
) -> io::Result<()> {
    // Stores, and what the kernel itself is made to do: side by side they are too wide.
    for is_store in [true, false] {
        write_part(out, mode, attacks, is_store, screen)?;
    }
    write_summary(out, attacks)
}

/// One of the two tables of a mode: the ways and the targets that some attack was made with, since not every machine has all.
fn write_part(
    out: &mut impl Write,
    mode: Mode,
    attacks: &[&Attack],
    is_store: bool,
    screen: Screen,
) -> io::Result<()> {
    let made: BTreeMap<_, _> = attacks
        .iter()
        .filter(|attack| attack.primitive.is_store() == is_store)
        .map(|attack| ((attack.target.to_string(), attack.primitive.name()), attack))
        .collect();
    let columns = Primitive::ALL
        .into_iter()
        .filter(|primitive| made.keys().any(|(_, name)| *name == primitive.name()));
    let columns: Vec<_> = columns.collect();
    if columns.is_empty() {
        return Ok(());
    }
    writeln!(out)?;
    write_heads(out, mode, &columns)?;
    for target in Target::all().map(|target| target.to_string()) {
        if !made.keys().any(|(of, _)| *of == target) {
            continue;
        }
        write!(out, "{target:<TARGET_COLUMNS$}")?;
        for primitive in &columns {
            let attack = made.get(&(target.clone(), primitive.name()));
            write!(out, " {}", attack.map_or(".".to_owned(), |attack| symbol(attack, screen)))?;
        }
        writeln!(out)?;
    }
    Ok(())
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
        (_, Promise::Succeeds, _) => "w".to_owned(),
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
        let (on, backend) = ("here".into(), "pks".into());
        let report = Report { on, backend, keys: "one", results, gates };
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
        for is_store in [true, false] {
            let part = Primitive::ALL.iter().filter(|primitive| primitive.is_store() == is_store);
            for (index, primitive) in part.enumerate() {
                let place = TARGET_COLUMNS + 1 + 2 * index;
                let named = text.lines().filter(|line| {
                    line.chars().skip(place).collect::<String>() == primitive.to_string()
                });
                assert_eq!(named.count(), 2, "{primitive}, once for each mode");
            }
        }
        let tables = text.lines().skip(1).filter(|line| !line.starts_with("not promised"));
        assert!(tables.map(|line| line.chars().count()).max() <= Some(80), "{text}");
    }
}
