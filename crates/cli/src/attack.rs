//! `kpkeys attack`: attacks the page tables of a running kernel and says what came of it.
//!
//! Each mode is one boot, in which every attack is made. The kernel judges its own attacks, and so does this program from what was
//! reported, by the same code; both must find that everything held.
//!
//! | module | concept |
//! |---|---|
//! | [`record`] | what the kernel reports |
//! | [`gates`] | what must hold of all attacks together |
//! | [`mod@print`] | the table |
//! | [`exploits`] | `--exploits`: programs that attack from outside, by faults of a driver |

mod exploits;
mod gates;
mod print;
mod record;

use std::collections::HashSet;
use std::io::{self, Write};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use kpkeys_emulator::Line;
use kpkeys_pgtable::Mode;
use serde::Serialize;

use crate::emulated::{Emulated, MachineOptions};
use crate::render::Screen;
use crate::usage::UsageError;
use gates::{Gates, Judged};
use record::Attack;

const EXAMPLES: &str = "\
Examples:
  kpkeys attack                         every attack in every mode, on x86-64 with PKS
  kpkeys attack --on qemu-aarch64       on arm64 with PAN
  kpkeys attack --on qemu-aarch64 --cpu cortex-a72 --backend ttbr0
                                        on arm64 of before PAN
  kpkeys attack --backend smap          on x86-64 with SMAP; --cpu Broadwell for a CPU of 2014
  kpkeys attack --modes off,fused       two modes only
  kpkeys attack --keys separate         in fused, the tables of address spaces with a key of their own
  kpkeys attack --backend mock          what happens where nothing enforces
  kpkeys attack --format json           one object for scripts
  kpkeys attack --exploits              programs that take over a kernel with a faulty driver, in every mode";

/// The options of `kpkeys attack`.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Options {
    #[command(flatten)]
    machine: MachineOptions,
    /// Modes to attack, separated by commas [default: off, unbatched, batched, fused-lean, fused]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    modes: Vec<String>,
    /// Run exploits instead: programs that turn faults of a driver into control over page tables; all, or some by name
    #[arg(long, value_name = "LIST", value_delimiter = ',', num_args = 0..=1, require_equals = true)]
    exploits: Option<Vec<String>>,
    /// How to print it
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

/// How the attacks are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Tables to read
    Table,
    /// One JSON object
    Json,
}

/// Everything that was found.
#[derive(Serialize)]
struct Report {
    on: String,
    backend: String,
    /// Which keys page tables carried in mode `fused`.
    keys: &'static str,
    results: Vec<Attack>,
    gates: Gates,
}

/// Makes all attacks in every mode asked for and prints what came of them. Returns whether every gate held.
///
/// # Errors
///
/// [`UsageError`] for an unknown mode; a kernel that did not start, panicked or did not end in time.
pub fn run(options: &Options) -> Result<bool> {
    let modes = modes(&options.modes)?;
    if let Some(names) = &options.exploits {
        return exploits::run(options, &modes, names);
    }
    let emulated = options.machine.build()?;
    let (mut results, mut backend, mut kernel_agrees) = (Vec::new(), String::new(), true);
    let mut unprotected = false;
    for mode in modes {
        eprintln!("kpkeys: attacking mode {} on {}", mode.name(), options.machine.on());
        let attacked = attack_mode(&emulated, mode)?;
        results.extend(attacked.attacks);
        unprotected |= mode != Mode::Off && attacked.unprotected;
        backend = attacked.backend;
        kernel_agrees &= attacked.held;
    }
    let gates = Gates::of(&results, kernel_agrees, unprotected);
    let (on, keys) = (options.machine.on(), options.machine.keys().name());
    let report = Report { on, backend, keys, results, gates };
    match options.format {
        Format::Table => print::write(&mut io::stdout().lock(), &report, Screen::of_stdout())?,
        Format::Json => writeln!(io::stdout(), "{}", serde_json::to_string_pretty(&report)?)?,
    }
    Ok(report.gates.hold())
}

/// What one boot delivered.
struct Attacked {
    backend: String,
    attacks: Vec<Attack>,
    /// Whether nothing protected the tables although nobody asked for that.
    unprotected: bool,
    /// Whether the kernel itself found that everything held, its final check of all tables included.
    held: bool,
}

fn attack_mode(emulated: &Emulated, mode: Mode) -> Result<Attacked> {
    let (mut attacks, mut announced, mut bad) = (Vec::new(), None, None);
    let words = format!("attack {}", emulated.words_of(mode.name()));
    let boot = emulated.boot(&words, &mut |line| match line {
        Line::Record(json) => match record::parse(json) {
            Ok(record::Record::Attack(attack)) => attacks.push(attack),
            Ok(record::Record::Attacks { made }) => announced = Some(made),
            Ok(record::Record::Other) => {}
            Err(error) => bad = Some(error),
        },
        Line::Log(text) if text.contains("error: ") => eprintln!("{text}"),
        Line::Log(_) => {}
    })?;
    if let Some(error) = bad {
        return Err(error);
    }
    let unprotected = boot.unprotected;
    let backend = boot.backend.context("the kernel did not say what protects it")?;
    match announced {
        Some(made) if made == attacks.len() => {
            Ok(Attacked { backend, attacks, unprotected, held: boot.held })
        }
        Some(made) => bail!("the kernel made {made} attacks and reported {}", attacks.len()),
        None => bail!("the kernel did not make all attacks in mode {}", mode.name()),
    }
}

/// The modes that are named, each once, or all.
fn modes(names: &[String]) -> Result<Vec<Mode>, UsageError> {
    if names.is_empty() {
        return Ok(Mode::ALL.into());
    }
    let known = |name: &String| {
        Mode::from_name(name)
            .ok_or_else(|| UsageError::unknown("mode", name, Mode::ALL.map(Mode::name)))
    };
    let mut modes: Vec<Mode> = names.iter().map(known).collect::<Result<_, _>>()?;
    let mut taken = HashSet::new();
    modes.retain(|mode| taken.insert(*mode));
    Ok(modes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_named_twice_is_attacked_once() {
        let names = ["fused", "off", "fused"].map(str::to_owned);
        assert_eq!(modes(&names), Ok(vec![Mode::Fused, Mode::Off]));
    }
}
