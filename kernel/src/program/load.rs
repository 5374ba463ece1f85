//! Running an ELF file: its segments and its interpreter's are mapped, the stack is made, and the first registers say where to begin.

use super::errno::{Errno, Outcome};
use super::files::node::{Kind, Node};
use super::files::tree::{self, Place};
use super::memory::{Memory, Pages, Permission, STACK_TOP, Source, UserAddress};
use super::random;
use super::usage::TICKS_PER_SECOND;
use crate::arch::registers::Registers;
use crate::memory::boot::PAGE_SIZE;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use kpkeys_program::executable::{self, Machine};
use kpkeys_program::stack::{self, Contents, MAX_BYTES};
use linux_raw_sys::auxvec::{
    AT_BASE, AT_CLKTCK, AT_EGID, AT_ENTRY, AT_EUID, AT_FLAGS, AT_GID, AT_HWCAP, AT_HWCAP2,
    AT_PAGESZ, AT_PHDR, AT_PHENT, AT_PHNUM, AT_SECURE, AT_UID,
};

#[cfg(target_arch = "x86_64")]
const MACHINE: (Machine, &[u8]) = (Machine::X86_64, b"x86_64");
#[cfg(target_arch = "aarch64")]
const MACHINE: (Machine, &[u8]) = (Machine::Aarch64, b"aarch64");

/// A file to be run on this kernel's pages.
type Executable<'a> = executable::Executable<'a, PAGE_SIZE>;

/// Where programs go that may go anywhere.
const MOVABLE_BASE: u64 = 0x5555_5555_4000 & !(PAGE_SIZE - 1);
/// How much of the stack is mapped at first; it grows.
const FIRST_STACK: u64 = 256 * 1024;
/// Where headers, the name of the interpreter and a script's first line must lie.
const MAX_HEADERS: usize = 64 * 1024;
/// Interpreters of scripts that are themselves scripts.
const MAX_SCRIPTS: usize = 4;

/// Why something cannot be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// A path leads to nothing that can be run.
    Path(Errno),
    /// The file is no program.
    File(executable::Error),
    /// The interpreter that it names is none.
    Interpreter(executable::Error),
    /// The interpreter that it names is not there.
    NoInterpreter(Errno),
    /// Arguments and environment are too long.
    TooLong,
    /// No memory.
    Memory(Errno),
}

impl Error {
    /// As a system call says it.
    pub fn errno(self) -> Errno {
        match self {
            Self::Path(errno) | Self::NoInterpreter(errno) | Self::Memory(errno) => errno,
            Self::File(_) | Self::Interpreter(_) => Errno::ENOEXEC,
            Self::TooLong => Errno::E2BIG,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(Errno::ENOENT) => f.write_str("there is no such file"),
            Self::Path(Errno::EACCES) => f.write_str("it is no file that may be executed"),
            Self::Path(Errno(number)) => write!(f, "its path cannot be followed (error {number})"),
            Self::File(error) => write!(f, "{error}"),
            Self::Interpreter(error) => write!(f, "its interpreter: {error}"),
            Self::NoInterpreter(_) => f.write_str("the interpreter it names is not there"),
            Self::TooLong => {
                write!(f, "arguments and environment have more than {MAX_BYTES} bytes")
            }
            Self::Memory(_) => f.write_str("there is not enough memory"),
        }
    }
}

/// What is run.
pub struct Request {
    /// Arguments, the program's name first.
    pub arguments: Vec<Vec<u8>>,
    /// The environment.
    pub environment: Vec<Vec<u8>>,
}

/// A program that is ready to be entered.
pub struct Loaded {
    /// Its memory.
    pub memory: Memory,
    /// Its first registers.
    pub registers: Registers,
    /// The path of its file.
    pub path: String,
    /// Its arguments, with those a script's first line adds.
    pub arguments: Vec<Vec<u8>>,
}

/// Loads the file at a path.
///
/// # Errors
///
/// Why it cannot be run.
pub fn load(
    root: &Arc<Node>,
    from: &Place,
    path: &str,
    mut request: Request,
) -> Result<Loaded, Error> {
    let mut path = String::from(path);
    for _ in 0..MAX_SCRIPTS {
        let place = runnable(root, from, &path)?;
        let (pages, script) = {
            let mut data = place.node.data().map_err(|_| Error::Path(Errno::EACCES))?.lock();
            match first_line(&data.beginning(MAX_HEADERS).map_err(Error::Memory)?) {
                Some(line) => (None, Some(line)),
                None => (Some(data.pages().map_err(Error::Memory)?), None),
            }
        };
        if let Some((interpreter, argument)) = script {
            let mut arguments: Vec<Vec<u8>> = alloc::vec![interpreter.clone().into_bytes()];
            arguments.extend(argument);
            arguments.push(path.into_bytes());
            arguments.extend(request.arguments.into_iter().skip(1));
            (request.arguments, path) = (arguments, interpreter);
            continue;
        }
        let Some(pages) = pages else { break };
        return load_file(root, from, &place, &pages, &path, request);
    }
    Err(Error::Path(Errno::ELOOP))
}

fn runnable(root: &Arc<Node>, from: &Place, path: &str) -> Result<Place, Error> {
    let place =
        tree::find(root, from, path, true).and_then(|found| found.place()).map_err(Error::Path)?;
    let may = place.node.kind() == Kind::File && place.node.meta.lock().permissions & 0o111 != 0;
    if may { Ok(place) } else { Err(Error::Path(Errno::EACCES)) }
}

/// The interpreter that a script names, and its argument.
fn first_line(file: &[u8]) -> Option<(String, Option<Vec<u8>>)> {
    const MAX_LINE: usize = 256;
    let line = file.strip_prefix(b"#!")?;
    let line = line.split(|&byte| byte == b'\n').next()?;
    let line = core::str::from_utf8(line.get(..line.len().min(MAX_LINE))?).ok()?.trim();
    let (interpreter, argument) = line.split_once([' ', '\t']).unwrap_or((line, ""));
    let argument = Some(argument.trim()).filter(|argument| !argument.is_empty());
    (!interpreter.is_empty())
        .then(|| (interpreter.into(), argument.map(|text| text.as_bytes().to_vec())))
}

fn load_file(
    root: &Arc<Node>,
    from: &Place,
    place: &Place,
    pages: &Arc<Pages>,
    named: &str,
    request: Request,
) -> Result<Loaded, Error> {
    let (program, name) = parsed(&place.node, Error::File)?;
    let memory = Memory::new().map_err(Error::Memory)?;
    let base = if program.movable { MOVABLE_BASE } else { 0 };
    map(&memory, &program, pages, base).map_err(Error::Memory)?;
    memory.start_heap(base + program.span().1);
    let (mut entry, mut interpreter_base) = (base + program.entry, 0);
    if let Some(name) = name {
        let name = core::str::from_utf8(&name).map_err(|_| Error::NoInterpreter(Errno::ENOENT))?;
        let place =
            runnable(root, from, name).map_err(|error| Error::NoInterpreter(error.errno()))?;
        let (interpreter, _) = parsed(&place.node, Error::Interpreter)?;
        let pages =
            place.node.data().and_then(|data| data.lock().pages()).map_err(Error::Memory)?;
        let (first, end) = interpreter.span();
        if interpreter.movable {
            interpreter_base = memory
                .map(0, end - first, Permission::DATA, Source::Zeroes)
                .and_then(|at| memory.unmap(at, end - first).map(|()| at - first))
                .map_err(Error::Memory)?;
        }
        map(&memory, &interpreter, &pages, interpreter_base).map_err(Error::Memory)?;
        entry = interpreter_base + interpreter.entry;
    }
    memory.map_stack(FIRST_STACK).map_err(Error::Memory)?;
    crate::arch::registers::map_trampoline(&memory).map_err(Error::Memory)?;
    let stack = first_stack(&program, base, interpreter_base, named, &request)?;
    memory.write(UserAddress(stack.pointer), &stack.bytes).map_err(Error::Memory)?;
    let registers = Registers::start(entry, stack.pointer);
    Ok(Loaded { memory, registers, path: place.path.clone(), arguments: request.arguments })
}

/// A file's headers, and the name of its interpreter.
fn parsed(
    node: &Node,
    failed: fn(executable::Error) -> Error,
) -> Result<(Executable<'static>, Option<Vec<u8>>), Error> {
    let data = node.data().map_err(Error::Memory)?.lock();
    let beginning = data.beginning(MAX_HEADERS).map_err(Error::Memory)?;
    let program = Executable::parse_beginning(&beginning, data.len(), MACHINE.0).map_err(failed)?;
    let name = program.interpreter.map(<[u8]>::to_vec);
    Ok((program.detached(), name))
}

fn map(memory: &Memory, program: &Executable<'_>, pages: &Arc<Pages>, base: u64) -> Outcome<()> {
    program.segments.iter().try_for_each(|segment| map_segment(memory, segment, pages, base))
}

/// The pages of a segment that are in the file, then those that are not; and zeroes behind the file's last byte.
fn map_segment(
    memory: &Memory,
    segment: &executable::Segment<PAGE_SIZE>,
    pages: &Arc<Pages>,
    base: u64,
) -> Outcome<()> {
    let allows = Permission { any: true, write: segment.write, execute: segment.execute };
    let (start, end) = (base + segment.first_page(), base + segment.last_page_end());
    let file_end = base + segment.address + segment.in_file;
    let backed_end =
        if segment.in_file == 0 { start } else { file_end.next_multiple_of(PAGE_SIZE) };
    if backed_end > start {
        let first = (segment.offset / PAGE_SIZE) as usize;
        memory.map_at(start, backed_end - start, allows, Source::Private(pages.clone(), first))?;
    }
    if end > backed_end {
        memory.map_at(backed_end, end - backed_end, allows, Source::Zeroes)?;
    }
    if segment.in_memory > segment.in_file && segment.write && backed_end > file_end {
        // Not on the stack, which may have less room than a page takes.
        static ZEROES: [u8; PAGE_SIZE as usize] = [0; _];
        memory.write(UserAddress(file_end), &ZEROES[..(backed_end - file_end) as usize])?;
    }
    Ok(())
}

fn first_stack(
    program: &Executable<'_>,
    base: u64,
    interpreter_base: u64,
    named: &str,
    request: &Request,
) -> Result<stack::Stack, Error> {
    const HEADER_LEN: u64 = 56;
    let headers = if program.headers == 0 { 0 } else { base + program.headers };
    let (capabilities, more) = crate::arch::registers::capabilities();
    let auxiliary = [
        (AT_HWCAP, capabilities),
        (AT_HWCAP2, more),
        (AT_PAGESZ, PAGE_SIZE),
        (AT_CLKTCK, TICKS_PER_SECOND),
        (AT_PHDR, headers),
        (AT_PHENT, HEADER_LEN),
        (AT_PHNUM, program.header_count),
        (AT_BASE, interpreter_base),
        (AT_FLAGS, 0),
        (AT_ENTRY, base + program.entry),
        (AT_UID, 0),
        (AT_EUID, 0),
        (AT_GID, 0),
        (AT_EGID, 0),
        (AT_SECURE, 0),
    ]
    .map(|(key, value)| (u64::from(key), value));
    let mut bytes = [0; 16];
    random::fill(&mut bytes);
    let contents = Contents {
        arguments: &request.arguments,
        environment: &request.environment,
        auxiliary: &auxiliary,
        file: named.as_bytes(),
        platform: MACHINE.1,
        random: bytes,
    };
    stack::layout(STACK_TOP, &contents).map_err(|_| Error::TooLong)
}
