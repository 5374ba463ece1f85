//! The kpkeys command.

mod trace;

use std::process::ExitCode;

use clap::Parser;

/// Page tables that a stray kernel write cannot change.
#[derive(Debug, Parser)]
#[command(name = "kpkeys", version)]
enum Cli {
    /// Record a command's memory history, or look at a recording.
    #[command(subcommand)]
    Trace(trace::TraceCommand),
}

fn main() -> anyhow::Result<ExitCode> {
    match Cli::parse() {
        Cli::Trace(command) => trace::run(command),
    }
}
