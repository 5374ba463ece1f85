//! What was tolerated on the way from the file to the table, and is said beneath it.

use crate::record::Mode;
use std::fmt;

/// Something the reader of a table should know about its samples.
#[derive(Clone, Debug, PartialEq)]
pub enum Notice {
    /// The last line of the file was cut off and dropped.
    TornLine {
        /// Its number, counted from 1.
        line: u64,
    },
    /// A worker never finished; what it wrote, if anything, was ignored, and its block is missing
    /// from every comparison with that mode.
    Unfinished {
        /// The mode it ran.
        mode: Mode,
        /// The block it ran in.
        block: u32,
    },
    /// A row has a mode but no baseline in a block, or the other way round: the pair was dropped.
    PairDropped {
        /// The row.
        result_class: String,
        /// The mode compared.
        mode: Mode,
        /// The block.
        block: u32,
        /// The side without samples: the mode itself, or `off`.
        missing: Mode,
    },
    /// Something else happened on the machine in some blocks.
    Disturbed {
        /// What.
        what: Disturbance,
        /// The most of it in a block.
        worst: f64,
        /// In how many blocks there was enough of it.
        disturbed: usize,
        /// Of how many.
        blocks: usize,
    },
    /// Fewer blocks hold a finished baseline than were planned.
    FewerBlocks {
        /// Blocks planned.
        planned: u32,
        /// Blocks with a finished baseline.
        complete: usize,
    },
}

/// What disturbs a measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disturbance {
    /// A hypervisor gave CPU time to other guests.
    Steal,
    /// Other processes ran.
    Others,
    /// A core was slowed for its heat.
    Heat,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Notice::TornLine { line } => {
                write!(f, "line {line} of the sample file was cut off and dropped")
            }
            Notice::Unfinished { mode, block } => {
                write!(f, "{mode} did not finish in block {block}, which is left out for it")
            }
            Notice::PairDropped { result_class, mode, block, missing } => write!(
                f,
                "{result_class}: no samples of {missing} in block {block}; \
                 the block was left out for {mode}"
            ),
            Notice::Disturbed { what, worst, disturbed, blocks } => {
                let blocks = format!("in {disturbed} of {blocks} blocks");
                match what {
                    Disturbance::Steal => write!(
                        f,
                        "other guests had up to {worst:.0} % of the CPUs {blocks}: choose a machine with CPUs of its own"
                    ),
                    Disturbance::Others => write!(
                        f,
                        "other processes used up to {worst:.0} % of the CPUs {blocks}: stop what else runs"
                    ),
                    Disturbance::Heat => write!(
                        f,
                        "the core was slowed for its heat, up to {worst:.0} times {blocks}: cool it, or lower the highest frequency"
                    ),
                }
            }
            Notice::FewerBlocks { planned, complete } => {
                write!(f, "{planned} blocks were planned, {complete} are complete")
            }
        }
    }
}
