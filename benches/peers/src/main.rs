//! The same page-table work through this library, through other crates and by hand, side by side in one run.
//!
//! `cargo run --release --manifest-path benches/peers/Cargo.toml [-- --quick] [--only entries|threads|growth]` prints Markdown tables on standard
//! output. Times are of this machine and this moment; the ratios are what to look at.

mod entries;
mod growth;
mod peer;
mod peers;
mod report;
mod threads;

use std::io::IsTerminal;
use std::process::ExitCode;

/// What to run.
struct Options {
    quick: bool,
    only: Option<String>,
    library: String,
}

const PARTS: [&str; 3] = ["entries", "threads", "growth"];

fn main() -> ExitCode {
    match options(std::env::args().skip(1)) {
        Ok(options) => {
            run(&options);
            ExitCode::SUCCESS
        }
        Err(wrong) => {
            eprintln!(
                "{wrong}\nusage: kpkeys-peers [--quick] [--only entries|threads|growth] [--library NAME]"
            );
            ExitCode::from(2)
        }
    }
}

fn options(mut arguments: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut options = Options { quick: false, only: None, library: String::new() };
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--quick" => options.quick = true,
            "--only" => {
                let part = arguments.next().ok_or("--only needs the name of a part")?;
                if !PARTS.contains(&part.as_str()) {
                    return Err(format!("there is no part {part}"));
                }
                options.only = Some(part);
            }
            "--library" => {
                options.library = arguments.next().ok_or("--library needs part of a name")?;
            }
            other => return Err(format!("unknown argument {other}")),
        }
    }
    Ok(options)
}

fn run(options: &Options) {
    let chosen = |part: &str| options.only.as_deref().is_none_or(|only| only == part);
    let progress = |part: &str| {
        if std::io::stderr().is_terminal() {
            eprintln!("{part} ...");
        }
    };
    if chosen("entries") {
        progress("entries");
        let rounds = if options.quick { 5 } else { 25 };
        entries::run(1 << 18, rounds, &options.library, &mut entries::generator(1))
            .iter()
            .for_each(|t| println!("{t}"));
    }
    if chosen("threads") {
        progress("threads");
        let (rounds, repeats) = if options.quick { (20_000, 3) } else { (200_000, 7) };
        println!("{}", threads::run(rounds, repeats));
    }
    if chosen("growth") {
        progress("growth");
        let limits = if options.quick { growth::QUICK } else { growth::FULL };
        growth::run(&limits).iter().for_each(|table| println!("{table}"));
    }
}
