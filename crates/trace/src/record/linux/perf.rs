//! Observing through perf events: tracepoints for system calls, faults and new tasks, a software event
//! for resolved faults, and the side-band records for mappings, exec, exit and context switches.
//!
//! Each event is opened once per processor for the calling thread, inherited by its children and enabled
//! by their exec, and all events of a processor write into one ring buffer. The thread that opens them is
//! the one that must start the command.

use std::io;
use std::os::fd::BorrowedFd;

use perf_event::events::{Event, Software, Tracepoint as TracepointEvent};
use perf_event::{Builder, Clock, Counter, SampleFlag, Sampler};

use super::calls;
use super::raw::{Raw, RawMapping, Seen};
use super::sys;
use super::tracepoints::{Field, Tracepoint};
use crate::event::FaultFlags;
use crate::header::Kinds;

/// Ring-buffer sizes to try, per processor, largest first: a user without CAP_IPC_LOCK may lock
/// /proc/sys/kernel/perf_event_mlock_kb only.
const BUFFER_BYTES: [usize; 4] = [32 << 20, 8 << 20, 2 << 20, 512 << 10];

/// What the observer is told to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// System calls, tasks and faults: needs tracepoints.
    Everything,
    /// Resolved faults of user code only: all that an ordinary user may see.
    UserFaults,
}

/// Where an event's record came from, by the number the kernel gave the event.
#[derive(Debug, Clone, Copy)]
enum Source {
    FaultBegins { user: bool },
    FaultEnds,
    CallBegins,
    CallEnds,
    NewTask,
    SpaceFreed,
}

/// Where the fields of the tracepoints lie.
#[derive(Debug, Clone, Copy)]
struct Layout {
    call_number: Field,
    call_arguments: Field,
    ended_number: Field,
    ended_result: Field,
    new_task: Field,
    clone_flags: Field,
    fault: Option<(Field, Field)>,
}

/// Open events and their ring buffers.
pub(super) struct Observer {
    rings: Vec<Sampler>,
    /// Events that write into the rings; closing one would end it.
    events: Vec<Counter>,
    sources: std::collections::HashMap<u64, Source>,
    layout: Option<Layout>,
    kinds: Kinds,
}

impl Observer {
    /// Opens everything for the calling thread's future children.
    pub(super) fn open(scope: Scope, cpus: &[usize]) -> io::Result<Self> {
        let points = match scope {
            Scope::Everything => Some(Points::find()?),
            Scope::UserFaults => None,
        };
        let mut observer = Self {
            rings: Vec::new(),
            events: Vec::new(),
            sources: std::collections::HashMap::new(),
            layout: points.as_ref().map(Points::layout).transpose()?,
            kinds: Kinds::FAULTS,
        };
        for &cpu in cpus {
            observer.open_cpu(scope, points.as_ref(), cpu)?;
        }
        observer.kinds = observer.kinds_of(scope, points.as_ref());
        Ok(observer)
    }

    /// The kinds of events that will be seen.
    pub(super) fn kinds(&self) -> Kinds {
        self.kinds
    }

    /// The descriptors that become readable when a ring buffer fills.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.rings.iter().map(|ring| sys::borrow(ring.as_counter()))
    }

    /// Takes everything out of the ring buffers.
    pub(super) fn drain(&mut self, out: &mut Vec<Raw>) {
        let Self { rings, sources, layout, .. } = self;
        for ring in rings {
            // Only what is there now: a busy command could keep this ring from ever being empty.
            let limit = out.len() + 4_000_000;
            while out.len() < limit {
                let Some(record) = ring.next_record() else { break };
                let bytes = record.to_contiguous();
                let find = |id| sources.get(&id).copied();
                out.extend(parse(record.ty(), record.misc(), &bytes, find, layout.as_ref()));
            }
        }
    }

    fn open_cpu(&mut self, scope: Scope, points: Option<&Points>, cpu: usize) -> io::Result<()> {
        let ring = self.open_ring(scope, cpu)?;
        let Some(points) = points else {
            self.rings.push(ring);
            return Ok(());
        };
        let filter = call_filter();
        let begins = self.open_point(&points.call_begins, cpu, &ring, Source::CallBegins)?;
        sys::set_filter(&self.events[begins], &filter)?;
        let ends = self.open_ends(&points.call_ends, cpu, &ring)?;
        sys::set_filter(&self.events[ends], &filter)?;
        self.open_point(&points.new_task, cpu, &ring, Source::NewTask)?;
        if let Some((user, kernel)) = &points.faults {
            self.open_point(user, cpu, &ring, Source::FaultBegins { user: true })?;
            self.open_point(kernel, cpu, &ring, Source::FaultBegins { user: false })?;
        }
        if let Some(freed) = &points.space_freed {
            // Since Linux 6.16 a task's own events end before its memory is freed, so this one watches
            // every task of the processor; those of other commands are told apart by their numbers.
            let mut builder = point_builder(freed, cpu);
            builder.any_pid().inherit(false).enable_on_exec(false).enabled(true);
            self.attach(&builder, &ring, Source::SpaceFreed)?;
        }
        self.open_switches(cpu, &ring)?;
        self.rings.push(ring);
        Ok(())
    }

    /// Records of every switch on the processor: a task's own events end before its memory is freed.
    fn open_switches(&mut self, cpu: usize, ring: &Sampler) -> io::Result<()> {
        let mut builder = builder(Software::DUMMY, cpu);
        builder.any_pid().inherit(false).enable_on_exec(false).enabled(true).context_switch(true);
        let event = builder.build()?;
        sys::redirect_output(&event, ring.as_counter())?;
        self.events.push(event);
        Ok(())
    }

    /// The software fault event of one processor; it owns the ring buffer and the side-band records.
    fn open_ring(&mut self, scope: Scope, cpu: usize) -> io::Result<Sampler> {
        let mut last = None;
        for bytes in BUFFER_BYTES {
            let mut builder = builder(Software::PAGE_FAULTS, cpu);
            builder.sample(SampleFlag::ADDR).sample_period(1).wakeup_watermark(bytes / 8);
            if scope == Scope::Everything {
                builder.task(true).comm(true).comm_exec(true);
                builder.mmap(true).mmap2(true).mmap_data(true);
            }
            if scope == Scope::UserFaults {
                builder.exclude_kernel(true);
            }
            let counter = builder.build()?;
            let id = counter.id();
            match counter.sampled(bytes) {
                Ok(ring) => {
                    self.sources.insert(id, Source::FaultEnds);
                    return Ok(ring);
                }
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| io::ErrorKind::OutOfMemory.into()))
    }

    fn open_point(
        &mut self,
        point: &Tracepoint,
        cpu: usize,
        ring: &Sampler,
        source: Source,
    ) -> io::Result<usize> {
        self.attach(&point_builder(point, cpu), ring, source)
    }

    /// The return of system calls, with the user's stack pointer.
    fn open_ends(&mut self, point: &Tracepoint, cpu: usize, ring: &Sampler) -> io::Result<usize> {
        let mut builder = point_builder(point, cpu);
        builder.sample(SampleFlag::REGS_USER);
        builder.sample_regs_user(1 << STACK_POINTER);
        self.attach(&builder, ring, Source::CallEnds)
    }

    fn attach(
        &mut self,
        builder: &Builder<'_>,
        ring: &Sampler,
        source: Source,
    ) -> io::Result<usize> {
        let event = builder.build()?;
        sys::redirect_output(&event, ring.as_counter())?;
        self.sources.insert(event.id(), source);
        self.events.push(event);
        Ok(self.events.len() - 1)
    }

    fn kinds_of(&self, scope: Scope, points: Option<&Points>) -> Kinds {
        let mut kinds = Kinds::FAULTS;
        kinds.set(Kinds::KERNEL_FAULTS, scope != Scope::UserFaults);
        if let Some(points) = points {
            kinds |= Kinds::CALLS | Kinds::TASKS | Kinds::EXEC_PAGES;
            let begins = points.faults.is_some();
            kinds.set(Kinds::FAULT_WRITES | Kinds::DURATIONS | Kinds::CPU_DURATIONS, begins);
            kinds.set(Kinds::TEARDOWN, begins && points.space_freed.is_some());
        }
        kinds
    }
}

/// The stack pointer's number in the kernel's register sets for samples (asm/perf_regs.h).
#[cfg(target_arch = "x86_64")]
const STACK_POINTER: u32 = 7;
#[cfg(target_arch = "aarch64")]
const STACK_POINTER: u32 = 31;
#[cfg(target_arch = "riscv64")]
const STACK_POINTER: u32 = 2;

fn builder<'a>(event: impl Event, cpu: usize) -> Builder<'a> {
    let mut builder = Builder::new(event);
    builder
        .observe_self()
        .one_cpu(cpu)
        .inherit(true)
        .enable_on_exec(true)
        .include_kernel()
        .sample(SampleFlag::IDENTIFIER | SampleFlag::TID | SampleFlag::TIME)
        .sample_id_all(true)
        .clockid(Clock::MONOTONIC);
    builder
}

fn point_builder<'a>(point: &Tracepoint, cpu: usize) -> Builder<'a> {
    let mut builder = builder(TracepointEvent::with_id(point.id), cpu);
    builder.sample(SampleFlag::RAW).sample_period(1);
    builder
}

fn call_filter() -> String {
    let tests: Vec<_> = calls::numbers().map(|number| format!("id == {number}")).collect();
    tests.join(" || ")
}

/// The tracepoints of the running kernel.
struct Points {
    call_begins: Tracepoint,
    call_ends: Tracepoint,
    new_task: Tracepoint,
    /// User and kernel faults: x86 and RISC-V have these, arm64 does not.
    faults: Option<(Tracepoint, Tracepoint)>,
    /// Since Linux 6.1.
    space_freed: Option<Tracepoint>,
}

impl Points {
    fn find() -> io::Result<Self> {
        let user = Tracepoint::find("exceptions/page_fault_user").ok();
        let kernel = Tracepoint::find("exceptions/page_fault_kernel").ok();
        Ok(Self {
            call_begins: Tracepoint::find("raw_syscalls/sys_enter")?,
            call_ends: Tracepoint::find("raw_syscalls/sys_exit")?,
            new_task: Tracepoint::find("task/task_newtask")?,
            faults: user.zip(kernel),
            space_freed: Tracepoint::find("mmap/exit_mmap").ok(),
        })
    }

    fn layout(&self) -> io::Result<Layout> {
        let fault = match &self.faults {
            Some((user, _)) => Some((user.field("address")?, user.field("error_code")?)),
            None => None,
        };
        Ok(Layout {
            call_number: self.call_begins.field("id")?,
            call_arguments: self.call_begins.field("args")?,
            ended_number: self.call_ends.field("id")?,
            ended_result: self.call_ends.field("ret")?,
            new_task: self.new_task.field("pid")?,
            clone_flags: self.new_task.field("clone_flags")?,
            fault,
        })
    }
}

/// Record types of the ring buffer (linux/perf_event.h).
mod record_type {
    pub const LOST: u32 = 2;
    pub const COMM: u32 = 3;
    pub const EXIT: u32 = 4;
    pub const SAMPLE: u32 = 9;
    pub const MMAP2: u32 = 10;
    pub const LOST_SAMPLES: u32 = 13;
    pub const SWITCH_CPU_WIDE: u32 = 15;
}

/// Set in a SWITCH record's misc field when the task stops running.
const SWITCH_OUT: u16 = 1 << 13;

/// Set in a COMM record's misc field when an exec caused it.
const COMM_EXEC: u16 = 1 << 13;

/// Reads one record. Those of no interest, or too short to be true, give nothing.
fn parse(
    ty: u32,
    misc: u16,
    bytes: &[u8],
    source: impl Fn(u64) -> Option<Source>,
    layout: Option<&Layout>,
) -> Option<Raw> {
    if ty == record_type::SAMPLE {
        return parse_sample(bytes, source, layout);
    }
    // Every other record ends with process, thread, time and event number (sample_id_all).
    let split = bytes.len().checked_sub(24)?;
    let (body, tail) = bytes.split_at(split);
    let (pid, tid, time_ns) = (word(tail, 0)?, word(tail, 4)?, long(tail, 8)?);
    let what = match ty {
        record_type::LOST => Seen::Lost { count: long(body, 8)? },
        record_type::LOST_SAMPLES => Seen::Lost { count: long(body, 0)? },
        record_type::COMM if misc & COMM_EXEC != 0 => {
            Seen::ExecBegins { name: until_nul(body.get(8..)?).to_vec() }
        }
        record_type::EXIT => {
            let (pid, tid) = (word(body, 0)?, word(body, 8)?);
            return Some(Raw { time_ns, pid, tid, what: Seen::Gone { status: None } });
        }
        record_type::MMAP2 => Seen::Mapped(parse_mapping(body)?),
        // Task 0 is an idle processor.
        record_type::SWITCH_CPU_WIDE if tid != 0 => Seen::Switched { out: misc & SWITCH_OUT != 0 },
        _ => return None,
    };
    Some(Raw { time_ns, pid, tid, what })
}

/// MMAP2: pid, tid, address, length, page offset, device and inode, protection, flags, name.
fn parse_mapping(body: &[u8]) -> Option<RawMapping> {
    let inode = long(body, 40)?;
    let name = until_nul(body.get(64..)?);
    Some(RawMapping {
        start: long(body, 8)?,
        length: long(body, 16)?,
        protection: word(body, 56)?,
        flags: word(body, 60)?,
        anonymous: inode == 0,
        stack: name == b"[stack]",
    })
}

/// A sample: event number, process, thread, time, then address or raw data and registers.
fn parse_sample(
    bytes: &[u8],
    source: impl Fn(u64) -> Option<Source>,
    layout: Option<&Layout>,
) -> Option<Raw> {
    let source = source(long(bytes, 0)?)?;
    let (pid, tid, time_ns) = (word(bytes, 8)?, word(bytes, 12)?, long(bytes, 16)?);
    let rest = bytes.get(24..)?;
    let what = match source {
        Source::FaultEnds => Seen::FaultEnds { address: long(rest, 0)? },
        source => {
            let length = word(rest, 0)? as usize;
            let raw = rest.get(4..4 + length)?;
            parse_tracepoint(source, raw, rest.get(4 + length..)?, layout?)?
        }
    };
    Some(Raw { time_ns, pid, tid, what })
}

fn parse_tracepoint(source: Source, raw: &[u8], rest: &[u8], layout: &Layout) -> Option<Seen> {
    Some(match source {
        Source::FaultBegins { user } => {
            let (address, error) = layout.fault?;
            Seen::FaultBegins {
                address: address.get(raw),
                flags: fault_flags(error.get(raw), user),
            }
        }
        Source::CallBegins => Seen::CallBegins {
            number: layout.call_number.get(raw) as i64,
            arguments: std::array::from_fn(|index| layout.call_arguments.element(index).get(raw)),
        },
        Source::CallEnds => {
            // Registers: which ABI the task was in (0 none, 1 32-bit, 2 64-bit), then the stack pointer.
            let abi = long(rest, 0)?;
            Seen::CallEnds {
                number: layout.ended_number.get(raw) as i64,
                result: layout.ended_result.get(raw) as i64,
                stack: (abi == 2).then(|| long(rest, 8)).flatten(),
                foreign: abi == 1,
            }
        }
        Source::NewTask => Seen::NewTask {
            child: layout.new_task.get(raw) as u32,
            clone_flags: layout.clone_flags.get(raw),
        },
        Source::SpaceFreed => Seen::SpaceFreed,
        Source::FaultEnds => return None,
    })
}

/// x86's page-fault error code (Intel SDM vol. 3, 4.7): bit 0 present, bit 1 write, bit 4 fetch.
#[cfg(target_arch = "x86_64")]
fn fault_flags(error_code: u64, user: bool) -> FaultFlags {
    let mut flags = FaultFlags::empty();
    flags.set(FaultFlags::PROTECTION, error_code & 1 != 0);
    flags.set(FaultFlags::WRITE, error_code & 2 != 0);
    flags.set(FaultFlags::INSTRUCTION, error_code & 16 != 0);
    flags.set(FaultFlags::KERNEL, !user);
    flags
}

/// RISC-V's exception cause (privileged specification, scause): 12 fetch, 13 load, 15 store. It does not
/// tell whether the page was present.
#[cfg(not(target_arch = "x86_64"))]
fn fault_flags(error_code: u64, user: bool) -> FaultFlags {
    let mut flags = FaultFlags::empty();
    flags.set(FaultFlags::WRITE, error_code == 15);
    flags.set(FaultFlags::INSTRUCTION, error_code == 12);
    flags.set(FaultFlags::KERNEL, !user);
    flags
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|&byte| byte == 0).next().unwrap_or_default()
}
