//! Project tasks, run as `cargo xtask NAME`.
//!
//! `test` is the one gate that a contributor and CI both pass; it is a list of named steps
//! ([`checks`]) handed to a runner that times and summarises them ([`step`]). `setup` installs what
//! the steps need, `docs` builds the documentation for reading. On request: `trees` reads the device trees of a distribution's kernel,
//! `overhead` counts what adapters cost, `pku` runs the hosted machine where the CPU has keys for it, `exploits` takes over kernels with a faulty driver, `hosts` runs the command on arm64 Linux, `image` boots a disk on UEFI firmware, `machines` what is too large for each commit, `slurm` runs a campaign on a cluster of its own, `browser` opens a report in Chromium, `verify` runs models, proofs and planted faults, and
//! `history` collects what the gate on instructions counted at each commit. `results` writes the pages of results from the runs that are kept.

mod audit;
mod bare;
mod checks;
mod command;
mod debian;
mod docs;
mod growth;
mod history;
mod hosts;
mod instructions;
mod kernel;
mod links;
mod machines;
mod oldest;
mod overhead;
mod package;
mod packages;
mod pku;
mod programs;
mod requested;
mod results;
mod setup;
mod step;
mod system_calls;
mod test;
mod toolchain;
mod trees;
mod tutorial;
mod verify;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Project tasks", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what is missing, then run every check and every test
    Test(checks::Arguments),
    /// Only install what is missing
    Setup,
    /// Write the lists of known sites that the step `audit` compares with
    Audit,
    /// Write the counts that the step `instructions` compares with
    Instructions,
    /// Count instructions up to the largest sizes and write the table of the book (takes minutes)
    Growth,
    /// Count what each adapter adds to a call of the crate it wraps (needs valgrind)
    Overhead,
    /// Add what the gate on instructions counted at each commit to a history
    History(history::Arguments),
    /// Write every table and picture of measurements that README and book show, from the runs that are kept
    Results(results::Arguments),
    /// Build the API documentation, and the book if mdbook is installed
    Docs,
    /// Run a campaign of 1,000 tasks in a Slurm of its own on this machine (root, Debian's packages, minutes)
    Slurm,
    /// Open a report in Chromium and read every number (Debian's package)
    Browser,
    /// Build every package from its files, install the command, and use both where there is no checkout (takes minutes)
    Package,
    /// Build a new crate outside of the workspace from the book's snippets alone, and run it
    Tutorial,
    /// Read every device tree of the distribution's arm64 kernel and compare with dtc (fetches 60 MB)
    Trees(trees::Arguments),
    /// Run programs of the distribution on the reference kernel: busybox, Python, gcc and make, stress-ng (fetches packages, an hour)
    Programs(programs::Arguments),
    /// Build the command for arm64 Linux, run it and the tests of the machine in a process, by QEMU's user mode (Debian's packages, minutes)
    Hosts,
    /// Boot the distribution's kernel where PKU is, and run the hosted machine's tests and the command there (fetches 28 MB, minutes)
    Pku,
    /// Run every exploit in every mode with every backend, on kernels with a faulty driver (minutes)
    Exploits,
    /// Boot machines with 64 CPUs, with CPU models that people have, with other formats of page tables, and soak for ten minutes each (two hours)
    Machines(machines::Arguments),
    /// Write disks by `kpkeys image` and boot them on UEFI firmware of both machines (Debian's packages, minutes)
    Image,
    /// Check the protocol by a model, prove the arithmetic, and find planted faults (minutes; proofs need Z3)
    Verify(verify::Arguments),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().task {
        Task::Test(arguments) => checks::run(&arguments),
        Task::Setup => setup::run_alone(),
        Task::Audit => audit::update(),
        Task::Instructions => instructions::update(),
        Task::Growth => growth::run(),
        Task::Overhead => overhead::run(),
        Task::History(arguments) => history::run(&arguments),
        Task::Results(arguments) => results::run(&arguments),
        Task::Docs => docs::build(),
        Task::Slurm => requested::slurm(),
        Task::Browser => requested::browser(),
        Task::Package => package::run(),
        Task::Tutorial => tutorial::run(),
        Task::Trees(arguments) => trees::run(&arguments),
        Task::Programs(arguments) => programs::run(&arguments),
        Task::Hosts => hosts::run(),
        Task::Pku => pku::run(),
        Task::Exploits => requested::exploits(),
        Task::Machines(arguments) => machines::run(&arguments),
        Task::Image => requested::image(),
        Task::Verify(arguments) => verify::run(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
