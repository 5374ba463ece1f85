//! The protection modes by the names they have in files, tables and on the command line.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// What a worker ran.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// No protection: the baseline.
    Off,
    /// The baseline once more. It must show no effect, or the run is not to be trusted.
    Aa,
    /// A window around every single store.
    Unbatched,
    /// A window for each lazy-MMU section, the key set and reset on each page-table page.
    Batched,
    /// A window for each operation, page-table pages from a keyed pool, without the checks of `fused`.
    FusedLean,
    /// The same, and what is stored is held against the type of every frame.
    Fused,
    /// The host kernel doing the same operation. Shown for scale, never tested against.
    Linux,
    /// `unbatched` without keys.
    #[serde(rename = "unbatched:switches")]
    UnbatchedSwitches,
    /// `batched` without keys: what the series' first table measured by accident.
    #[serde(rename = "batched:switches")]
    BatchedSwitches,
    /// `batched` without switches.
    #[serde(rename = "batched:keys")]
    BatchedKeys,
    /// `batched` with page-table pages from the pool, whose keys are set once for a block.
    #[serde(rename = "batched:pool")]
    BatchedPool,
    /// `fused-lean` with page-table pages one by one, as in `batched`.
    #[serde(rename = "fused-lean:no-pool")]
    LeanNoPool,
    /// `fused-lean` with unmaps that do not wait for a window.
    #[serde(rename = "fused-lean:no-deferral")]
    LeanNoDeferral,
}

/// A name that is no mode.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown mode `{0}`; expected one of off, aa, unbatched, batched, fused-lean, fused, linux, or a part: unbatched:switches, batched:switches, batched:keys, batched:pool, fused-lean:no-pool, fused-lean:no-deferral"
)]
pub struct UnknownMode(pub String);

impl Mode {
    /// All modes but parts of them, in the order of the table's columns.
    pub const ALL: [Mode; 7] = [
        Mode::Off,
        Mode::Aa,
        Mode::Unbatched,
        Mode::Batched,
        Mode::FusedLean,
        Mode::Fused,
        Mode::Linux,
    ];

    /// The modes that protect: the comparisons of the table, and the family of Holm's correction.
    pub const PROTECTING: [Mode; 4] =
        [Mode::Unbatched, Mode::Batched, Mode::FusedLean, Mode::Fused];

    /// Modes taken apart: each is one of the above with something left out or replaced. They say where the costs go, and protect nothing.
    pub const PARTS: [Mode; 6] = [
        Mode::UnbatchedSwitches,
        Mode::BatchedSwitches,
        Mode::BatchedKeys,
        Mode::BatchedPool,
        Mode::LeanNoPool,
        Mode::LeanNoDeferral,
    ];

    /// What this is a part of, if it is one.
    #[must_use]
    pub const fn whole(self) -> Option<Mode> {
        match self {
            Mode::UnbatchedSwitches => Some(Mode::Unbatched),
            Mode::BatchedSwitches | Mode::BatchedKeys | Mode::BatchedPool => Some(Mode::Batched),
            Mode::LeanNoPool | Mode::LeanNoDeferral => Some(Mode::FusedLean),
            _ => None,
        }
    }

    /// The mode's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Mode::Off => "off",
            Mode::Aa => "aa",
            Mode::Unbatched => "unbatched",
            Mode::Batched => "batched",
            Mode::FusedLean => "fused-lean",
            Mode::Fused => "fused",
            Mode::Linux => "linux",
            Mode::UnbatchedSwitches => "unbatched:switches",
            Mode::BatchedSwitches => "batched:switches",
            Mode::BatchedKeys => "batched:keys",
            Mode::BatchedPool => "batched:pool",
            Mode::LeanNoPool => "fused-lean:no-pool",
            Mode::LeanNoDeferral => "fused-lean:no-deferral",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Mode {
    type Err = UnknownMode;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Mode::ALL
            .into_iter()
            .chain(Mode::PARTS)
            .find(|mode| mode.name() == name)
            .ok_or_else(|| UnknownMode(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_in_files_is_the_name_on_the_command_line() {
        for mode in Mode::ALL.into_iter().chain(Mode::PARTS) {
            assert_eq!(mode.name().parse(), Ok(mode));
            assert_eq!(serde_json::to_value(mode).unwrap(), mode.name());
        }
    }

    #[test]
    fn a_part_names_what_it_is_a_part_of() {
        for part in Mode::PARTS {
            let whole = part.whole().expect("a part has a whole");
            let (of, _) = part.name().split_once(':').expect("mode:part");
            assert_eq!(of, whole.name(), "{part}");
        }
        assert!(Mode::ALL.into_iter().all(|mode| mode.whole().is_none()));
    }

    #[test]
    fn an_unknown_mode_is_answered_with_the_valid_ones() {
        let message = "fast".parse::<Mode>().unwrap_err().to_string();
        for mode in Mode::ALL.into_iter().chain(Mode::PARTS) {
            assert!(message.contains(mode.name()), "{message}");
        }
        assert!(message.starts_with("unknown mode `fast`; expected one of off, aa"), "{message}");
    }
}
