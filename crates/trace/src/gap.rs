//! What a recording lacks and knows that it lacks: processes that ran unseen.

use crate::error::Malformed;
use crate::varint::{self, Cursor};

/// Most kinds of gaps in a trailer, and most names of one.
const LIMIT: u64 = 256;

/// Names kept of one gap; the count goes on.
#[cfg(target_os = "linux")]
const NAMES_KEPT: usize = 16;

/// Longest name, in bytes.
const NAME_BYTES: usize = 255;

/// Why a process ran unseen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
#[non_exhaustive]
pub enum GapCause {
    /// It was still running when the recording ended with the command.
    Survived = 1,
    /// It was made by a clone that forbids tracing it (CLONE_UNTRACED).
    Untraceable = 2,
    /// It executed a program that tracing would have taken its privilege from, and was let go before.
    Privileged = 3,
    /// The kernel ended its perf events when it executed a program with other privilege than its own.
    Hidden = 4,
    /// It wanted to trace another process, which was traced already.
    Tracer = 5,
}

impl GapCause {
    const ALL: [Self; 5] =
        [Self::Survived, Self::Untraceable, Self::Privileged, Self::Hidden, Self::Tracer];

    fn from_code(code: u8) -> Result<Self, Malformed> {
        Self::ALL
            .into_iter()
            .find(|&cause| cause as u8 == code)
            .ok_or(Malformed::Undefined { field: "the cause of a gap", value: u64::from(code) })
    }

    /// What is missing because of it, for `count` processes.
    fn describe(self, count: u64) -> String {
        let processes = if count == 1 { "1 process".into() } else { format!("{count} processes") };
        match self {
            Self::Survived => {
                format!("{processes} outlived the command and went on unrecorded")
            }
            Self::Untraceable => {
                format!("{processes} made untraceable (CLONE_UNTRACED) ran unrecorded")
            }
            Self::Privileged => format!(
                "{processes} executed a program that tracing would take its privilege from, and went on \
                 unrecorded"
            ),
            Self::Hidden => format!(
                "{processes} executed a program with other privilege, from where the kernel allows no \
                 recording"
            ),
            Self::Tracer => {
                format!("{processes} wanted to trace another itself, which the recording prevented")
            }
        }
    }
}

/// Processes that ran unseen, for one reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// Why.
    pub cause: GapCause,
    /// How many.
    pub count: u64,
    /// The programs of the first of them, with process ids.
    pub names: Vec<String>,
}

impl Gap {
    /// Adds one process to the gap with `cause` in `gaps`.
    #[cfg(target_os = "linux")]
    pub(crate) fn note(gaps: &mut Vec<Self>, cause: GapCause, name: String) {
        let at = gaps.iter().position(|gap| gap.cause == cause).unwrap_or_else(|| {
            gaps.push(Self { cause, count: 0, names: Vec::new() });
            gaps.len() - 1
        });
        let gap = &mut gaps[at];
        gap.count += 1;
        if gap.names.len() < NAMES_KEPT {
            gap.names.push(name.chars().take(NAME_BYTES / 4).collect());
        }
    }

    pub(crate) fn encode_all(gaps: &[Self], out: &mut Vec<u8>) {
        varint::put(out, gaps.len() as u64);
        for gap in gaps {
            out.push(gap.cause as u8);
            varint::put(out, gap.count);
            varint::put(out, gap.names.len() as u64);
            for name in &gap.names {
                varint::put_bytes(out, name.as_bytes());
            }
        }
    }

    pub(crate) fn decode_all(cursor: &mut Cursor<'_>) -> Result<Vec<Self>, Malformed> {
        let gaps = limited(cursor.number()?)?;
        (0..gaps).map(|_| Self::decode(cursor)).collect()
    }

    fn decode(cursor: &mut Cursor<'_>) -> Result<Self, Malformed> {
        let cause = GapCause::from_code(cursor.byte()?)?;
        let count = cursor.number()?;
        let names = limited(cursor.number()?)?;
        let names = (0..names)
            .map(|_| Ok(String::from_utf8_lossy(cursor.bytes(NAME_BYTES)?).into_owned()))
            .collect::<Result<_, Malformed>>()?;
        Ok(Self { cause, count, names })
    }
}

impl std::fmt::Display for Gap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let unnamed = self.count.saturating_sub(self.names.len() as u64);
        write!(f, "{}: {}", self.cause.describe(self.count), self.names.join(", "))?;
        if unnamed > 0 { write!(f, " and {unnamed} more") } else { Ok(()) }
    }
}

fn limited(length: u64) -> Result<u64, Malformed> {
    if length > LIMIT { Err(Malformed::TooLong { length, limit: LIMIT }) } else { Ok(length) }
}
