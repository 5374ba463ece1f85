//! The kpkeys command: what hardened page tables cost on this machine, and what it takes to find out.
//!
//! Machine-readable output goes to standard output, progress and notes to standard error. Exit code 0: done, and all gates held; 1: a
//! gate or a check failed; 2: usage.

mod affinity;
mod attack;
mod audit;
mod bench;
mod campaign;
mod compare;
mod doctor;
mod emulated;
mod emulation;
mod estimate;
mod history;
mod host;
mod image;
mod instructions;
mod noise;
mod parts;
mod reference;
mod render;
mod report;
mod run;
mod schema;
mod shell;
mod spread;
mod table;
mod trace;
mod usage;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory, Parser, Subcommand};
use usage::UsageError;

const EXAMPLES: &str = "\
Examples:
  kpkeys doctor                               what this machine can run
  kpkeys bench --quick                        what protection costs here, a first look
  kpkeys attack                               what it stops, in a kernel under QEMU
  kpkeys trace record -o make.trace -- make   what a command does to its memory
  kpkeys COMMAND --help                       options and examples of one command";

/// Page tables that a stray or hostile kernel write cannot change: what that costs, measured here.
#[derive(Parser)]
#[command(name = "kpkeys", version = env!("KPKEYS_VERSION"), after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    call: Call,
}

#[derive(Subcommand)]
enum Call {
    /// Run the evaluation and print its table for this machine
    Bench(bench::Options),
    /// Attack the page tables of a running kernel and say what came of it
    Attack(attack::Options),
    /// List every instruction of an image that can write what protection depends on
    Audit(audit::Options),
    /// Count the instructions each operation executes, with several backends side by side
    Instructions(instructions::Options),
    /// Compare runs, or two builds that take turns, with a verdict as exit code
    Compare(compare::Options),
    /// Set runs of several layouts of the code side by side
    Spread(spread::Options),
    /// Print the table of a kept run again, whole or in part
    Table(table::Options),
    /// Say where each point of overhead goes, of a run with --parts
    Parts(parts::Options),
    /// Say what protection is expected to cost, from counts and a machine's costs
    Estimate(estimate::Options),
    /// Make one page of runs, with pictures, that needs no network
    Report(report::Options),
    /// Follow runs over commits, and say where something changed
    History(history::Options),
    /// Boot the reference kernel in an emulator
    Run(run::Options),
    /// Write a disk that machines with UEFI firmware boot, with the reference kernel on it
    Image(image::Options),
    /// Print the tables the Linux series published
    #[command(
        after_help = "Examples:\n  kpkeys reference                     all of them\n  kpkeys reference v5-amended --format csv"
    )]
    Reference {
        /// Which table [default: all]
        table: Option<String>,
        /// How to print it
        #[arg(long, value_enum, default_value = "table")]
        format: render::Format,
    },
    /// Say what this machine and its tools can run
    #[command(after_help = "Examples:\n  kpkeys doctor\n  kpkeys doctor --format json")]
    Doctor {
        /// How to print it
        #[arg(long, value_enum, default_value = "text")]
        format: doctor::Format,
    },
    /// Print the JSON Schema of what is printed or kept as JSON
    #[command(after_help = "Examples:\n  kpkeys schema table\n  kpkeys schema samples")]
    Schema {
        /// table (bench), samples (a line of samples.jsonl), comparison or history
        name: String,
    },
    /// Record what a real command does to its memory, or look at a recording
    #[command(subcommand)]
    Trace(trace::Call),
    /// Carry out a plan of many runs, in Slurm or here, and put its results together
    #[command(subcommand)]
    Campaign(campaign::Call),
    /// Print completions for a shell
    #[command(
        after_help = "Examples:\n  kpkeys completions bash > ~/.local/share/bash-completion/completions/kpkeys\n  kpkeys completions zsh > ~/.zfunc/_kpkeys"
    )]
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Write man pages, one for each call
    #[command(after_help = "Examples:\n  kpkeys man ~/.local/share/man/man1")]
    Man {
        /// Where to; it is made if it is not there
        folder: PathBuf,
    },
    #[command(hide = true)]
    BenchWorker(bench::worker::Options),
}

impl Arguments {
    /// Refuses what the call would refuse before it does anything, as far as that can be told.
    fn check(&self) -> Result<(), UsageError> {
        match &self.call {
            Call::Bench(options) => bench::check(options),
            _ => Ok(()),
        }
    }
}

fn main() -> ExitCode {
    match run(Arguments::parse().call) {
        Ok(code) => code,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // Where nobody can be told, the exit code does.
            let _ = writeln!(io::stderr(), "kpkeys: {}", usage::told_once(&error));
            ExitCode::from(if error.is::<UsageError>() { 2 } else { 1 })
        }
    }
}

fn run(call: Call) -> Result<ExitCode> {
    let done = |()| ExitCode::SUCCESS;
    let gates = |held: bool| if held { ExitCode::SUCCESS } else { ExitCode::from(1) };
    match call {
        Call::Bench(options) => bench::run(&options).map(gates),
        Call::Attack(options) => attack::run(&options).map(gates),
        Call::Audit(options) => audit::run(&options).map(gates),
        Call::Instructions(options) => instructions::run(&options).map(done),
        Call::Compare(options) => compare::run(&options).map(gates),
        Call::Spread(options) => spread::run(&options).map(gates),
        Call::Table(options) => table::run(&options).map(gates),
        Call::Parts(options) => parts::run(&options).map(done),
        Call::Estimate(options) => estimate::run(&options).map(done),
        Call::Report(options) => report::run(&options).map(done),
        Call::History(options) => history::run(&options).map(done),
        Call::Run(options) => run::run(&options).map(gates),
        Call::Image(options) => image::run(&options).map(done),
        Call::Reference { table, format } => print_reference(table.as_deref(), format).map(done),
        Call::Doctor { format } => doctor::run(format).map(done),
        Call::Schema { name } => schema::run(&name).map(done),
        Call::Trace(call) => trace::run(call),
        Call::Campaign(call) => campaign::run(&call).map(gates),
        Call::Completions { shell } => {
            shell::print_completions(Arguments::command(), shell).map(done)
        }
        Call::Man { folder } => shell::write_man_pages(Arguments::command(), &folder).map(done),
        Call::BenchWorker(options) => bench::worker::run(&options).map(done),
    }
}

fn print_reference(table: Option<&str>, format: render::Format) -> Result<()> {
    let tables = match table {
        Some(name) => vec![reference::find(name).map_err(|error| UsageError(error.to_string()))?],
        None => reference::published().collect(),
    };
    Ok(render::write_published(
        &mut io::stdout().lock(),
        &tables,
        format,
        render::Screen::of_stdout(),
    )?)
}

/// Whoever read our output has seen enough.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_shows_examples_in_its_help() {
        let command = Arguments::command();
        // Calls of calls have their own.
        let calls =
            command.get_subcommands().filter(|call| !call.is_hide_set() && !call.has_subcommands());
        for call in calls {
            let help = call.clone().render_help().to_string();
            assert!(help.contains("Examples:\n  kpkeys "), "{help}");
        }
    }
}
