//! One command on one machine.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use kpkeys_emulator::{Kernel, Line, Machine, Outcome};
use kpkeys_pgtable::Mode;

/// What is to be run, and on what.
pub struct Boot<'a> {
    pub kernel: &'a Kernel,
    pub archive: &'a Path,
    pub mode: Mode,
    pub memory_mib: u32,
    pub limit: Duration,
    /// One CPU whose clock counts instructions, a nanosecond each; otherwise four, and the host's clock.
    pub counts_instructions: bool,
    /// A thread of the kernel stores to page tables meanwhile.
    pub attacked: bool,
}

/// What came of it.
#[derive(Debug)]
pub struct Ended {
    /// The lines that the command printed.
    pub printed: Vec<String>,
    /// What it ended with; none if the kernel did not say.
    pub status: Option<u64>,
    /// How the machine ended.
    pub outcome: Outcome,
    /// The checker had nothing to say, no frame is missing, and attacks fared as promised.
    pub is_clean: bool,
    /// How many attacks there were beside it.
    pub attacks: u64,
    /// What protected page tables.
    pub backend: String,
    /// What was timed.
    pub samples_ns: Vec<u64>,
}

impl Ended {
    /// Whether it ended with a status, and the kernel in order.
    pub fn is_well(&self, status: u32) -> bool {
        let expected = if status == 0 { Outcome::Success } else { Outcome::Failed };
        self.status == Some(status.into()) && self.outcome == expected && self.is_clean
    }
}

impl<'a> Boot<'a> {
    /// 256 MiB, five minutes, on four CPUs, without attacks.
    pub fn new(kernel: &'a Kernel, archive: &'a Path, mode: Mode) -> Self {
        let limit = Duration::from_secs(300);
        Self {
            kernel,
            archive,
            mode,
            memory_mib: 256,
            limit,
            counts_instructions: false,
            attacked: false,
        }
    }

    /// Runs a script by the archive's `sh`.
    pub fn run(&self, script: &str) -> Result<Ended> {
        self.boot(&format!("-- sh -c '{}'", script.replace('\'', "'\\''")))
    }

    /// Boots with these words for the kernel.
    pub fn boot(&self, words: &str) -> Result<Ended> {
        let machine = Machine {
            cpus: if self.counts_instructions { 1 } else { 4 },
            clock_by_instructions: self.counts_instructions,
            memory_mib: self.memory_mib,
            command_line: format!(
                "mode={}{} {words}",
                self.mode.name(),
                if self.attacked { " attacked" } else { "" },
            ),
            initramfs: Some(self.archive.to_owned()),
            time_limit: self.limit,
            ..Machine::default()
        };
        let (mut printed, mut status, mut is_clean) = (Vec::new(), None, false);
        let (mut has_all_frames, mut attacks) = (true, 0);
        let (mut backend, mut samples_ns) = (String::new(), Vec::new());
        let run = self.kernel.run(&machine, &mut |line| match line {
            Line::Log(text) if text.ends_with(" 0 findings") => is_clean = true,
            Line::Log(text) if is_of_kernel(text) => {}
            Line::Log(text) => printed.push(text.to_owned()),
            Line::Record(json) => {
                let record: serde_json::Value = serde_json::from_str(json).unwrap_or_default();
                match record["type"].as_str() {
                    Some("program") => {
                        status = record["status"].as_u64();
                        has_all_frames = record["missing_frames"] == 0;
                    }
                    Some("attacker") => {
                        let made = |what: &str| record[what].as_u64().unwrap_or(0);
                        attacks = made("blocked") + made("succeeded");
                    }
                    Some("protection") => {
                        record["backend"].as_str().unwrap_or_default().clone_into(&mut backend);
                    }
                    Some("sample") => samples_ns.extend(record["ns"].as_u64()),
                    _ => {}
                }
            }
        })?;
        is_clean &= has_all_frames && self.attacked == (attacks > 0);
        let outcome = run.outcome;
        Ok(Ended { printed, status, outcome, is_clean, attacks, backend, samples_ns })
    }
}

/// Whether a line is of the kernel's log: it begins with a time, `[   12.345] `.
fn is_of_kernel(line: &str) -> bool {
    let time = line.strip_prefix('[').and_then(|rest| rest.split_once("] "));
    time.is_some_and(|(time, _)| time.trim_start().parse::<f64>().is_ok() && time.contains('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_programs_brackets_are_its_own() {
        assert!(is_of_kernel("[    0.163] mode fused"));
        assert!(is_of_kernel("[  117.356] checker"));
        for line in ["[0, 1] of", "[(100, 328350)]", "['a.b'] c", "[]", "[3] 4"] {
            assert!(!is_of_kernel(line), "{line}");
        }
    }
}
