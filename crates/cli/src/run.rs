//! `kpkeys run`: boots the reference kernel and shows what it says.

use anyhow::Result;
use kpkeys_emulator::Line;

use crate::emulated::MachineOptions;

/// The options of `kpkeys run`.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    #[command(flatten)]
    machine: MachineOptions,
    /// Protection mode: off, unbatched, batched or fused [default: fused]
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
    Ok(boot.held)
}
