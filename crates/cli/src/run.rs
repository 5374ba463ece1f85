//! `kpkeys run`: boots the reference kernel and shows what it says.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use kpkeys_emulator::Line;
use kpkeys_pgtable::{Keys, Mode};

use crate::emulated::{MachineOptions, UNPROTECTED};
use crate::usage::UsageError;

const EXAMPLES: &str = "\
Examples:
  kpkeys run                        boot the reference kernel and show its log
  kpkeys run tests                  run its own tests
  kpkeys run --on qemu-aarch64 soak=60 --records
  kpkeys run --backend none --mode off
  kpkeys run --keys separate tests  tables of address spaces with a key of their own
  kpkeys run --rootfs root.cpio -- ls -l /
  kpkeys run --rootfs root.cpio --mode off -- sh";

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
    /// An archive of files (cpio, newc): run the command behind `--`, from there, and end as it ends
    #[arg(long, value_name = "FILE")]
    rootfs: Option<PathBuf>,
    /// Words for the kernel's command line, such as `tests`, `soak=60`; with --rootfs the command
    #[arg(value_name = "WORD")]
    words: Vec<String>,
}

impl Options {
    /// The kernel's word for the keys that were asked for. It refuses those that the mode or the backend does not have.
    fn keys(&self) -> Option<String> {
        let keys = self.machine.keys();
        (keys != Keys::default()).then(|| format!("keys={}", keys.name()))
    }
}

/// Boots the kernel. Its log goes to standard output; returns whether what it was asked for was done and held.
///
/// # Errors
///
/// The kernel did not start, panicked, or did not end in time.
pub fn run(options: &Options) -> Result<bool> {
    if let Some(archive) = &options.rootfs {
        return run_command(options, archive);
    }
    let emulated = options.machine.build()?;
    let mut words = options.words.clone();
    words.extend(options.mode.as_ref().map(|mode| format!("mode={mode}")));
    words.extend(options.keys());
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

/// Runs a command of an archive. On a terminal that is the command's own; otherwise what it prints goes to standard output, and what the kernel
/// says to standard error.
fn run_command(options: &Options, archive: &Path) -> Result<bool> {
    if !archive.is_file() {
        bail!("{}: there is no such file", archive.display());
    }
    if options.words.is_empty() {
        return Err(UsageError("--rootfs needs a command behind `--`".to_owned()).into());
    }
    let emulated = options.machine.build()?.with_initramfs(archive);
    let mode = options.mode.as_ref().map(|mode| format!("mode={mode} ")).unwrap_or_default();
    let mode = mode + &options.keys().map(|keys| keys + " ").unwrap_or_default();
    let command: Vec<String> = options.words.iter().map(|word| quoted(word)).collect();
    let command = command.join(" ");
    if std::io::stdin().is_terminal() && std::io::stdout().is_terminal() {
        return emulated.boot_attached(&format!("{mode}interactive -- {command}"));
    }
    let mut runs = false;
    let boot = emulated.boot(&format!("{mode}-- {command}"), &mut |line| match line {
        Line::Log(text) | Line::Record(text) if runs && !is_kernels(text) => println!("{text}"),
        Line::Record(json) => {
            runs |= json.starts_with("{\"type\":\"protection\"");
            if options.records {
                eprintln!("{json}");
            }
        }
        Line::Log(text) => eprintln!("{text}"),
    })?;
    Ok(boot.held)
}

/// A word as the kernel's command line takes it: in single quotes, as a shell's.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// Whether a line is the kernel's, once the command runs: it has the time that every line of the log begins with, or is the record of the command's
/// end.
fn is_kernels(line: &str) -> bool {
    if line.starts_with("{\"type\":\"program\"") {
        return true;
    }
    let time = line.strip_prefix('[').and_then(|rest| rest.split_once("] "));
    time.is_some_and(|(time, _)| {
        let time = time.trim_start();
        time.len() >= 5 && time.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_command_prints_is_told_from_the_log() {
        for kernels in ["[    0.138] warning: x", "{\"type\":\"program\",\"status\":3}"] {
            assert!(is_kernels(kernels), "{kernels}");
        }
        for commands in ["", "[1] done", "[ x ] y", "{\"a\":1}", "{"] {
            assert!(!is_kernels(commands), "{commands}");
        }
    }

    #[test]
    fn words_are_quoted_for_the_kernel() {
        assert_eq!(quoted("echo 'x'; ls"), "'echo '\\''x'\\''; ls'");
    }
}
