//! What a trace says about itself: the [`Header`] before the events and the [`Trailer`] after them.
//!
//! Both are a body of varints and byte strings inside a frame with length and checksum; the frames are
//! [`frame`](crate::frame)'s business. `docs/src/traces.md` has the byte layout.

use bitflags::bitflags;

use crate::error::Malformed;
use crate::gap::Gap;
use crate::varint::{self, Cursor};

/// Longest string or argument in a header.
const STRING_LIMIT: usize = 1 << 20;

/// Most arguments a recorded command may have.
const ARGUMENTS_LIMIT: u64 = 1 << 20;

bitflags! {
    /// Which kinds of events the recorder was able to see. A kind that is not set is missing from the
    /// trace, not absent from the program.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    pub struct Kinds: u64 {
        /// mmap, munmap, mremap, mprotect, brk, madvise, shmat, shmdt.
        const CALLS = 1;
        /// Fork, exec, exit.
        const TASKS = 2;
        /// Page faults of user code.
        const FAULTS = 4;
        /// Page faults of the kernel on user memory.
        const KERNEL_FAULTS = 8;
        /// Whether a fault was a write, and the other fault flags.
        const FAULT_WRITES = 16;
        /// [`TaskTimes::accounted`](crate::TaskTimes::accounted).
        const ACCOUNTING = 32;
        /// The measured durations in [`TaskTimes`](crate::TaskTimes).
        const DURATIONS = 64;
        /// The pages an execve made present, exactly.
        const EXEC_PAGES = 128;
        /// The measured durations are CPU time: what a task waited meanwhile is not in them. Since version 2
        /// of the format.
        const CPU_DURATIONS = 256;
        /// [`Trailer::teardown_ns`]. Since version 2 of the format; before, it was recorded where it is not 0.
        const TEARDOWN = 512;
    }
}

/// The architecture a trace was recorded on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Arch {
    /// x86-64.
    X86_64 = 1,
    /// arm64.
    Aarch64 = 2,
    /// 64-bit RISC-V.
    Riscv64 = 3,
}

impl Arch {
    /// The architecture this program was built for, where a trace can name it.
    pub fn native() -> Option<Self> {
        match std::env::consts::ARCH {
            "x86_64" => Some(Self::X86_64),
            "aarch64" => Some(Self::Aarch64),
            "riscv64" => Some(Self::Riscv64),
            _ => None,
        }
    }

    /// Its usual name.
    pub fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
            Self::Riscv64 => "riscv64",
        }
    }

    fn from_code(code: u8) -> Result<Self, Malformed> {
        [Self::X86_64, Self::Aarch64, Self::Riscv64]
            .into_iter()
            .find(|&arch| arch as u8 == code)
            .ok_or(Malformed::Undefined { field: "the architecture", value: u64::from(code) })
    }
}

/// How a trace was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Method {
    /// Written by a program, not recorded.
    Synthetic = 0,
    /// perf events: system-call and fault tracepoints.
    Perf = 1,
    /// ptrace for the calls, perf software events for the faults where allowed.
    Ptrace = 2,
}

impl Method {
    /// A short name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Synthetic => "synthetic",
            Self::Perf => "perf",
            Self::Ptrace => "ptrace",
        }
    }

    fn from_code(code: u8) -> Result<Self, Malformed> {
        [Self::Synthetic, Self::Perf, Self::Ptrace]
            .into_iter()
            .find(|&method| method as u8 == code)
            .ok_or(Malformed::Undefined { field: "the method", value: u64::from(code) })
    }
}

/// What is known before the first event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Architecture of the recorded machine.
    pub arch: Arch,
    /// Its page size as a power of two.
    pub page_shift: u8,
    /// Width of user addresses: every address in the trace is below two to this power.
    pub address_bits: u8,
    /// How it was recorded.
    pub method: Method,
    /// What the recorder could see.
    pub kinds: Kinds,
    /// When recording began, in nanoseconds since 1970.
    pub started_unix_ns: u64,
    /// Processors in use on the recorded machine.
    pub cpus: u32,
    /// How many bytes around a fault on a file's page Linux maps when they are in memory.
    pub fault_around_bytes: u64,
    /// Name and release of the kernel.
    pub kernel: String,
    /// Linux's setting for transparent huge pages (always, madvise, never), empty when unknown.
    pub huge_pages: String,
    /// The command and its arguments.
    pub command: Vec<Vec<u8>>,
}

impl Header {
    /// The body's bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![self.arch as u8, self.page_shift, self.address_bits, self.method as u8];
        varint::put(&mut out, self.kinds.bits());
        varint::put(&mut out, self.started_unix_ns);
        varint::put(&mut out, u64::from(self.cpus));
        varint::put(&mut out, self.fault_around_bytes);
        varint::put_bytes(&mut out, self.kernel.as_bytes());
        varint::put_bytes(&mut out, self.huge_pages.as_bytes());
        varint::put(&mut out, self.command.len() as u64);
        for argument in &self.command {
            varint::put_bytes(&mut out, argument);
        }
        out
    }

    /// Reads a body back.
    pub(crate) fn decode(body: &[u8]) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(body);
        let arch = Arch::from_code(cursor.byte()?)?;
        let page_shift = limited(cursor.byte()?, 12..=16, "the page shift")?;
        let address_bits = limited(cursor.byte()?, 32..=57, "the address width")?;
        let method = Method::from_code(cursor.byte()?)?;
        let header = Self {
            arch,
            page_shift,
            address_bits,
            method,
            kinds: decode_kinds(cursor.number()?)?,
            started_unix_ns: cursor.number()?,
            cpus: cursor.number32()?,
            fault_around_bytes: cursor.number()?,
            kernel: decode_string(&mut cursor)?,
            huge_pages: decode_string(&mut cursor)?,
            command: decode_command(&mut cursor)?,
        };
        finish(&cursor, body)?;
        Ok(header)
    }
}

fn limited(
    value: u8,
    allowed: std::ops::RangeInclusive<u8>,
    field: &'static str,
) -> Result<u8, Malformed> {
    if allowed.contains(&value) {
        Ok(value)
    } else {
        Err(Malformed::Undefined { field, value: u64::from(value) })
    }
}

fn decode_kinds(bits: u64) -> Result<Kinds, Malformed> {
    Kinds::from_bits(bits)
        .ok_or(Malformed::Undefined { field: "the set of recorded kinds", value: bits })
}

fn decode_string(cursor: &mut Cursor<'_>) -> Result<String, Malformed> {
    Ok(String::from_utf8_lossy(cursor.bytes(STRING_LIMIT)?).into_owned())
}

fn decode_command(cursor: &mut Cursor<'_>) -> Result<Vec<Vec<u8>>, Malformed> {
    let arguments = cursor.number()?;
    if arguments > ARGUMENTS_LIMIT {
        return Err(Malformed::TooLong { length: arguments, limit: ARGUMENTS_LIMIT });
    }
    (0..arguments).map(|_| Ok(cursor.bytes(STRING_LIMIT)?.to_vec())).collect()
}

fn finish(cursor: &Cursor<'_>, body: &[u8]) -> Result<(), Malformed> {
    match body.len() - cursor.position() {
        0 => Ok(()),
        left => Err(Malformed::LeftOver(left as u64)),
    }
}

/// How the command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It exited with this code.
    Exited(u8),
    /// This signal killed it.
    Signalled(u8),
    /// It was still running when the recording was stopped.
    Running,
}

/// Elapsed and CPU time of one run of the command and every descendant it waited for, in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RunTimes {
    /// Elapsed.
    pub real_ns: u64,
    /// CPU time in user mode.
    pub user_ns: u64,
    /// CPU time in the kernel.
    pub system_ns: u64,
}

/// What is known after the last event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trailer {
    /// Events in the trace.
    pub events: u64,
    /// Events the kernel dropped because the recorder was too slow.
    pub lost: u64,
    /// Events that arrived after a later one had been written; their times were moved.
    pub late: u64,
    /// Memory calls that failed, and therefore are not events.
    pub failed_calls: u64,
    /// Calls of 32-bit programs, which the recorder does not decode.
    pub foreign_calls: u64,
    /// Time spent on freeing address spaces when their last task had exited, in nanoseconds;
    /// [`Kinds::TEARDOWN`] says whether it was recorded.
    pub teardown_ns: u64,
    /// How the command ended.
    pub outcome: Outcome,
    /// Time of the recorded run.
    pub recorded: RunTimes,
    /// Time of a run without recording, when one was made.
    pub unrecorded: Option<RunTimes>,
    /// Processes that ran unseen. Since version 2 of the format.
    pub gaps: Vec<Gap>,
}

impl Trailer {
    /// The body's bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let (kind, code) = match self.outcome {
            Outcome::Exited(code) => (0, code),
            Outcome::Signalled(signal) => (1, signal),
            Outcome::Running => (2, 0),
        };
        let mut out = vec![kind, code];
        for count in [
            self.events,
            self.lost,
            self.late,
            self.failed_calls,
            self.foreign_calls,
            self.teardown_ns,
        ] {
            varint::put(&mut out, count);
        }
        self.recorded.encode(&mut out);
        out.push(u8::from(self.unrecorded.is_some()));
        if let Some(times) = &self.unrecorded {
            times.encode(&mut out);
        }
        Gap::encode_all(&self.gaps, &mut out);
        out
    }

    /// Reads a body of a file of `version` back.
    pub(crate) fn decode(body: &[u8], version: u16) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(body);
        let outcome = match (cursor.byte()?, cursor.byte()?) {
            (0, code) => Outcome::Exited(code),
            (1, signal) => Outcome::Signalled(signal),
            (2, 0) => Outcome::Running,
            (kind, _) => {
                return Err(Malformed::Undefined { field: "the outcome", value: u64::from(kind) });
            }
        };
        let trailer = Self {
            outcome,
            events: cursor.number()?,
            lost: cursor.number()?,
            late: cursor.number()?,
            failed_calls: cursor.number()?,
            foreign_calls: cursor.number()?,
            teardown_ns: cursor.number()?,
            recorded: RunTimes::decode(&mut cursor)?,
            unrecorded: match limited(cursor.byte()?, 0..=1, "the mark of a second run")? {
                0 => None,
                _ => Some(RunTimes::decode(&mut cursor)?),
            },
            gaps: if version < 2 { Vec::new() } else { Gap::decode_all(&mut cursor)? },
        };
        finish(&cursor, body)?;
        Ok(trailer)
    }
}

impl RunTimes {
    fn encode(&self, out: &mut Vec<u8>) {
        for time in [self.real_ns, self.user_ns, self.system_ns] {
            varint::put(out, time);
        }
    }

    fn decode(cursor: &mut Cursor<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            real_ns: cursor.number()?,
            user_ns: cursor.number()?,
            system_ns: cursor.number()?,
        })
    }
}
