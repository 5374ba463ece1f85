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
}

/// A name that is no mode.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown mode `{0}`; expected one of off, aa, unbatched, batched, fused-lean, fused, linux"
)]
pub struct UnknownMode(pub String);

impl Mode {
    /// All modes, in the order of the table's columns.
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
            .find(|mode| mode.name() == name)
            .ok_or_else(|| UnknownMode(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_in_files_is_the_name_on_the_command_line() {
        for mode in Mode::ALL {
            assert_eq!(mode.name().parse(), Ok(mode));
            assert_eq!(serde_json::to_value(mode).unwrap(), mode.name());
        }
    }

    #[test]
    fn an_unknown_mode_is_answered_with_the_valid_ones() {
        let message = "fast".parse::<Mode>().unwrap_err().to_string();
        assert_eq!(
            message,
            "unknown mode `fast`; expected one of off, aa, unbatched, batched, fused-lean, fused, linux"
        );
    }
}
