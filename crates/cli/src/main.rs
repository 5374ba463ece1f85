//! The kpkeys command: bench, reference, doctor.

mod doctor;
#[allow(dead_code, reason = "called by the commands")]
mod reference;
#[allow(dead_code, reason = "called by the commands")]
mod render;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "kpkeys")]
struct Arguments {
    #[command(subcommand)]
    call: Call,
}

#[derive(Subcommand)]
enum Call {
    /// What this machine and its tools can run
    Doctor {
        /// How to print it
        #[arg(long, value_enum, default_value = "text")]
        format: doctor::Format,
    },
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().call {
        Call::Doctor { format } => doctor::run(format),
    }
}
