//! `kpkeys run`: boots the reference kernel and shows what it says.

use anyhow::Result;
use kpkeys_emulator::Line;
use kpkeys_pgtable::Mode;

use crate::emulated::{MachineOptions, UNPROTECTED};

const EXAMPLES: &str = "\
Examples:
  kpkeys run                        boot the reference kernel and show its log
  kpkeys run tests                  run its own tests
  kpkeys run --on qemu-aarch64 soak=60 --records
  kpkeys run --backend none --mode off";

/// The options of `kpkeys run`.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Options {
    #[command(flatten)]
    machine: MachineOptions,
    /// Protection mode: off, unbatched, batched, fused-lean or fused [default: fused]
    #[arg(long, value_name = "MODE")]
    mode: Option<String>,
    /// Print the kernel's records too, one JSON object a line, to standard output
    #[arg(long)]
    records: bool,
    /// Words for the kernel's command line, such as `tests`, `soak=60`
    #[arg(value_name = "WORD")]
    words: Vec<String>,
}

/// Boots the kernel. Its log goes to standard output; returns whether what it was asked for was done and held.
///
/// # Errors
///
/// The kernel did not start, panicked, or did not end in time.
pub fn run(options: &Options) -> Result<bool> {
    let emulated = options.machine.build()?;
    let mut words = options.words.clone();
    words.extend(options.mode.as_ref().map(|mode| format!("mode={mode}")));
    let boot = emulated.boot(&words.join(" "), &mut |line| match line {
        Line::Log(text) => println!("{text}"),
        Line::Record(json) if options.records => println!("{json}"),
        Line::Record(_) => {}
    })?;
    let off = options.mode.as_deref() == Some(Mode::Off.name());
    if boot.unprotected && !off {
        eprintln!("kpkeys: {UNPROTECTED}");
        return Ok(false);
    }
    Ok(boot.held)
}
