//! What modes execute beside events: the instructions of each row, counted by callgrind.
//!
//! Counts do not depend on a machine's speed, and hardly on the machine: those of this version are part of the program, as its gate on
//! instructions committed them (`crates/counted/instructions.toml`). A run of another version wants the file of that version.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use kpkeys_stats::cost::UnitCost;
use kpkeys_stats::predict::Software;
use kpkeys_stats::record::Mode;
use serde::Deserialize;

use crate::usage::UsageError;

const OWN: &str = include_str!("../../data/instructions.toml");

/// Instructions of operations in modes, as `cargo xtask instructions` writes them.
#[derive(Deserialize)]
pub struct Instructions {
    counts: BTreeMap<String, f64>,
}

/// What an instruction takes where the rest of its operation was not counted: one to four in each cycle of 2.5 GHz.
const INSTRUCTION: UnitCost = UnitCost { ns: 0.25, low_ns: 0.1, high_ns: 0.4 };
/// Operations of one window and little else: what they execute more is what windows of unknown work may.
const SINGLE: [&str; 3] = ["map", "protect", "unmap"];

impl Instructions {
    /// Those of this version, or of a file.
    ///
    /// # Errors
    ///
    /// [`UsageError`] for a file that cannot be read or holds something else.
    pub fn read(file: Option<&Path>) -> Result<Instructions, UsageError> {
        let (name, text) = match file {
            None => ("the counts of this version".to_owned(), OWN.to_owned()),
            Some(file) => {
                let name = file.display().to_string();
                let text = fs::read_to_string(file)
                    .map_err(|error| UsageError(format!("cannot read {name}: {error}")))?;
                (name, text)
            }
        };
        toml::from_str(&text).map_err(|error| {
            let why = error.message().to_owned();
            UsageError(format!(
                "{name} is not what `cargo xtask instructions` writes: {why}; leave --instructions out for the counts of this version"
            ))
        })
    }

    /// What a mode executes in a row beside the baseline's: as counted, or by its windows. None for a mode of which nothing is known.
    pub fn of(&self, row: &str, mode: Mode) -> Option<Software> {
        let mode = mode.whole().unwrap_or(mode);
        if let Some((off, on)) = self.pair(row, mode) {
            return Some(Software::Counted(on / off - 1.0));
        }
        let more = SINGLE.map(|operation| {
            let (off, on) = self.pair(&format!("aarch64 {operation} one page"), mode)?;
            Some(on - off)
        });
        let [Some(a), Some(b), Some(c)] = more else { return None };
        let (low, high) = (a.min(b).min(c), a.max(b).max(c));
        Some(Software::PerWindow(UnitCost {
            ns: (a + b + c) / 3.0 * INSTRUCTION.ns,
            low_ns: low * INSTRUCTION.low_ns,
            high_ns: high * INSTRUCTION.high_ns,
        }))
    }

    fn pair(&self, operation: &str, mode: Mode) -> Option<(f64, f64)> {
        let count = |mode: Mode| self.counts.get(&format!("{operation}, {mode}")).copied();
        Some((count(Mode::Off)?, count(mode)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instructions(text: &str) -> Instructions {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn what_this_version_counted_has_every_mode() {
        let own = Instructions::read(None).unwrap();
        for mode in [Mode::Unbatched, Mode::Batched, Mode::FusedLean, Mode::Fused] {
            let fork = own.of("fork: h:1", mode);
            assert!(matches!(fork, Some(Software::Counted(_))), "{mode}: {fork:?}");
            let trace = own.of("system time", mode);
            assert!(matches!(trace, Some(Software::PerWindow(_))), "{mode}: {trace:?}");
        }
    }

    #[test]
    fn a_row_is_what_was_counted_of_it_and_others_are_by_window() {
        let known = instructions(
            "[counts]\n\"row, off\" = 100.0\n\"row, batched\" = 110.0\n\
             \"aarch64 map one page, off\" = 10\n\"aarch64 map one page, batched\" = 50\n\
             \"aarch64 protect one page, off\" = 10\n\"aarch64 protect one page, batched\" = 20\n\
             \"aarch64 unmap one page, off\" = 10\n\"aarch64 unmap one page, batched\" = 20\n",
        );
        let Some(Software::Counted(share)) = known.of("row", Mode::Batched) else { panic!() };
        assert!((share - 0.1).abs() < 1e-9);
        // A part executes what its whole does.
        assert!(matches!(known.of("row", Mode::BatchedKeys), Some(Software::Counted(_))));
        let each = UnitCost { ns: 20.0 * 0.25, low_ns: 10.0 * 0.1, high_ns: 40.0 * 0.4 };
        assert_eq!(known.of("other", Mode::Batched), Some(Software::PerWindow(each)));
        assert_eq!(known.of("other", Mode::Fused), None);
    }

    #[test]
    fn another_file_is_refused_with_its_name() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "name = \"plan\"\n").unwrap();
        let error = Instructions::read(Some(file.path())).err().unwrap().0;
        assert!(error.contains("not what `cargo xtask instructions` writes"), "{error}");
    }
}
