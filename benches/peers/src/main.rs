//! The same page-table work through this library, through other crates and by hand, side by side in one run.
//!
//! `cargo run --release --manifest-path benches/peers/Cargo.toml [-- --quick] [--only PART] [--out DIR]` prints Markdown tables on standard
//! output, and writes those of each part to `DIR/peers-PART.md`. Times are of this machine and this moment; the ratios are what to look at.

mod entries;
mod growth;
mod peer;
mod peers;
mod report;
mod soak;
mod threads;

use std::fs;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use report::Table;

/// What to run.
struct Options {
    quick: bool,
    only: Option<String>,
    library: String,
    out: Option<PathBuf>,
}

/// One part of the run: its name, and what it measures.
struct Part {
    name: &'static str,
    run: fn(&Options) -> Vec<Table>,
}

const PARTS: [Part; 4] = [
    Part { name: "entries", run: entries },
    Part { name: "threads", run: threads },
    Part { name: "growth", run: growth },
    Part { name: "soak", run: soak },
];

fn main() -> ExitCode {
    let options = match options(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(wrong) => {
            let parts = PARTS.map(|part| part.name).join("|");
            eprintln!(
                "{wrong}\nusage: kpkeys-peers [--quick] [--only {parts}] [--library NAME] [--out DIR]"
            );
            return ExitCode::from(2);
        }
    };
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kpkeys-peers: cannot write the tables: {error}");
            ExitCode::FAILURE
        }
    }
}

fn options(mut arguments: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut options = Options { quick: false, only: None, library: String::new(), out: None };
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--quick" => options.quick = true,
            "--only" => {
                let part = arguments.next().ok_or("--only needs the name of a part")?;
                if PARTS.iter().all(|known| known.name != part) {
                    return Err(format!("there is no part {part}"));
                }
                options.only = Some(part);
            }
            "--library" => {
                options.library = arguments.next().ok_or("--library needs part of a name")?;
            }
            "--out" => {
                options.out = Some(arguments.next().ok_or("--out needs a folder")?.into());
            }
            other => return Err(format!("unknown argument {other}")),
        }
    }
    Ok(options)
}

fn run(options: &Options) -> io::Result<()> {
    let chosen = |part: &&Part| options.only.as_deref().is_none_or(|only| only == part.name);
    for part in PARTS.iter().filter(chosen) {
        if io::stderr().is_terminal() {
            eprintln!("{} ...", part.name);
        }
        let tables = (part.run)(options);
        tables.iter().for_each(|table| println!("{table}"));
        if let Some(folder) = &options.out {
            write(folder, part.name, options.quick, &tables)?;
        }
    }
    Ok(())
}

/// The tables of a part, and where they were measured.
fn write(folder: &Path, part: &str, quick: bool, tables: &[Table]) -> io::Result<()> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let machine = model.map_or("an unknown CPU", |(_, name)| name);
    let length = if quick { ", with --quick: a first look" } else { "" };
    let mut text = format!("Measured on {machine}{length}.\n");
    tables.iter().for_each(|table| text += &format!("\n{table}"));
    fs::create_dir_all(folder)?;
    fs::write(folder.join(format!("peers-{part}.md")), text)
}

fn entries(options: &Options) -> Vec<Table> {
    let rounds = if options.quick { 5 } else { 25 };
    entries::run(1 << 18, rounds, &options.library, &mut entries::generator(1))
}

fn threads(options: &Options) -> Vec<Table> {
    let (rounds, repeats) = if options.quick { (20_000, 3) } else { (200_000, 11) };
    vec![threads::run(rounds, repeats)]
}

fn growth(options: &Options) -> Vec<Table> {
    growth::run(if options.quick { &growth::QUICK } else { &growth::FULL })
}

fn soak(options: &Options) -> Vec<Table> {
    vec![soak::run(if options.quick { 2_000 } else { 100_000 })]
}
