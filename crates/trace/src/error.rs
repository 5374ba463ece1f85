//! What can be wrong with a trace, and where.

use std::io;

/// Why a trace could not be read, with the place.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TraceError {
    /// The file could not be read or written.
    #[error("the trace could not be read or written: {0}")]
    Io(#[from] io::Error),
    /// The first bytes are not a trace's.
    #[error("this is not a kpkeys trace: it does not begin with the signature of one")]
    NotATrace,
    /// Made by a newer version of this tool.
    #[error(
        "the trace has format version {found}, newer than {supported}, the newest this program reads: \
         use a newer kpkeys"
    )]
    NewerVersion {
        /// The file's version.
        found: u16,
        /// The newest version known here.
        supported: u16,
    },
    /// The file ends before its trailer.
    #[error("the trace is cut off: it ends at byte {offset}, inside {inside}")]
    Truncated {
        /// Where the file ends.
        offset: u64,
        /// What was being read there.
        inside: &'static str,
    },
    /// A checksum does not fit its bytes.
    #[error(
        "the trace is damaged: the {part} at byte {offset} has checksum {found:#010x}, not {expected:#010x}"
    )]
    Checksum {
        /// Header, block or trailer.
        part: &'static str,
        /// Where the part begins.
        offset: u64,
        /// Computed over the bytes.
        found: u32,
        /// Stored in the file.
        expected: u32,
    },
    /// A part is there and intact but says something impossible.
    #[error("the {part} at byte {offset} of the trace is wrong: {reason}")]
    Part {
        /// Header, block or trailer.
        part: &'static str,
        /// Where the part begins.
        offset: u64,
        /// What it says.
        reason: Malformed,
    },
    /// An event is wrong.
    #[error(
        "event {index} of the trace (byte {within} of the unpacked block at byte {offset}) is wrong: {reason}"
    )]
    Event {
        /// Its rank in the trace, from 0.
        index: u64,
        /// Where its block begins in the file.
        offset: u64,
        /// Where it begins in the unpacked block.
        within: usize,
        /// What is wrong with it.
        reason: Malformed,
    },
    /// An event handed to the writer cannot be written.
    #[error("event {index} cannot be written to a trace: {reason}")]
    Unwritable {
        /// Its rank.
        index: u64,
        /// What is wrong with it.
        reason: Malformed,
    },
}

/// What is wrong with a part or an event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// Ends too early.
    #[error("it ends too early")]
    Short,
    /// A number of more than 64 bits, or more than its field allows.
    #[error("a number is too long")]
    NumberTooLong,
    /// A byte string above the limit.
    #[error("a byte string is longer than {limit} bytes")]
    StringTooLong {
        /// Longest allowed.
        limit: usize,
    },
    /// A length above the limit.
    #[error("its length {length} is above the limit of {limit} bytes")]
    TooLong {
        /// What it says.
        length: u64,
        /// Largest allowed.
        limit: u64,
    },
    /// Bytes left over.
    #[error("{0} bytes are left over")]
    LeftOver(u64),
    /// Could not be unpacked.
    #[error("it does not unpack to the {0} bytes it promises")]
    Unpack(usize),
    /// A tag, code or flag that this version does not define.
    #[error("{field} has the undefined value {value:#x}")]
    Undefined {
        /// Which field.
        field: &'static str,
        /// What it holds.
        value: u64,
    },
    /// An address outside the user half of the address space.
    #[error("page number {page:#x} is outside the {bits}-bit user address space")]
    NonCanonical {
        /// First page outside.
        page: u64,
        /// Width of user addresses.
        bits: u8,
    },
    /// A range of no pages.
    #[error("it names an empty range of pages")]
    EmptyRange,
    /// The task is not alive at this point.
    #[error("it belongs to task {0}, which is not alive here")]
    NoSuchTask(u32),
    /// The task is alive already.
    #[error("it starts task {0}, which was there before")]
    TaskTwice(u32),
    /// Time runs backwards.
    #[error("its time lies before that of the event before it")]
    TimeBackwards,
    /// Count of events that disagrees with the events.
    #[error("it promises {promised} events, there are {found}")]
    EventCount {
        /// Said.
        promised: u64,
        /// Counted.
        found: u64,
    },
}
