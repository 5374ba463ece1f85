//! A recording through ptrace, for users who may not use perf's tracepoints.
//!
//! The command runs under a seccomp filter that stops it at the calls of a trace; the calling thread is
//! its tracer. Page faults come from perf's software event, which an ordinary user may have for user
//! code. Three threads: the *starter* opens the fault event and starts the command (perf events follow
//! the thread that opened them), the *tracer* (this thread) handles the stops, the *collector* empties
//! the ring buffers and writes the trace.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use nix::sys::ptrace;
use nix::unistd::Pid;
use rustix::process::{Pid as RawPid, Signal, kill_process};

use super::assemble::Assembler;
use super::calls::{self, Call};
use super::children::{
    Children, Interrupts, Meter, Status, Subreaper, now_ns, wait_any, wait_stopped,
};
use super::error::RecordError;
use super::machine::Machine;
use super::perf::{Observer, Scope};
use super::raw::{Raw, Seen};
use super::sink::Sink;
use super::sys::{self, CallInfo, Resume};
use super::{Options, Report, launch, permission, seccomp, tracee};
use crate::error::TraceError;
use crate::header::{Kinds, Method};
use crate::writer::TraceWriter;

/// Time between two looks at the ring buffers, which are small here.
const ROUND: Duration = Duration::from_millis(5);

/// Records the command of `options` into `out`.
pub(super) fn record<W: Write + Send>(
    options: &Options,
    machine: &Machine,
    mut notes: Vec<String>,
    out: W,
) -> Result<Report, RecordError> {
    let system = |what| move |error| RecordError::System { what, error };
    let _subreaper = Subreaper::become_one().map_err(system("become a subreaper"))?;
    let interrupts = Interrupts::catch().map_err(system("catch signals"))?;
    let (gate, door) = gate().map_err(system("make a pipe"))?;
    if options.until_parent {
        notes.push("with ptrace, processes left behind are recorded to their end too".to_owned());
    }
    let shared = Shared::default();
    thread::scope(|scope| {
        let (to_starter, orders) = channel();
        let (reports, from_starter) = channel();
        scope.spawn(move || starter(options, machine, door, &orders, &reports));
        let observer = match from_starter.recv() {
            Ok(Told::Observer(observer)) => observer,
            _ => return Err(starter_died()),
        };
        let session = Session::begin(options, machine, observer, notes, out)?;
        let Session { observer, sink, kinds, notes } = session;
        let collector = scope.spawn(|| collector(observer, sink, &shared, &interrupts));
        let traced = to_starter
            .send(())
            .map_err(|_| starter_died())
            .and_then(|()| trace(machine, gate, &shared.observed));
        shared.ended.store(true, Ordering::Release);
        let sink = collector.join().map_err(|_| starter_died())?;
        let started = match from_starter.recv() {
            Ok(Told::Started(started)) => started,
            _ => Err(starter_died()),
        };
        // The starter waits for the end of this channel: its fault event must live until here.
        drop(to_starter);
        let children = match (traced, started) {
            (Ok(children), Ok(_)) => children,
            // A command that could not be started could not be traced either; but one that may not be
            // traced is therefore not started.
            (Err(refused @ RecordError::NoPtrace { .. }), _) => return Err(refused),
            (_, Err(error)) | (Err(error), Ok(_)) => return Err(error),
        };
        Report::conclude(options, sink?, kinds, Method::Ptrace, &children, notes)
    })
}

/// What tracer and collector share.
#[derive(Debug, Default)]
struct Shared {
    /// The tracer's observations on their way to the collector.
    observed: Mutex<Vec<Raw>>,
    /// The tracer is done.
    ended: AtomicBool,
}

/// What the collector is given.
struct Session<W: Write> {
    observer: Option<Observer>,
    sink: Sink<W>,
    kinds: Kinds,
    notes: Vec<String>,
}

impl<W: Write> Session<W> {
    fn begin(
        options: &Options,
        machine: &Machine,
        observer: io::Result<Observer>,
        mut notes: Vec<String>,
        out: W,
    ) -> Result<Self, RecordError> {
        let mut kinds = Kinds::CALLS | Kinds::TASKS | Kinds::EXEC_PAGES;
        match &observer {
            Ok(observer) => kinds |= observer.kinds(),
            Err(error) => notes.push(permission::faults_refused(error)),
        }
        notes.extend(permission::missing(kinds));
        let header = machine.header(Method::Ptrace, kinds, options.command_bytes());
        let writer = TraceWriter::new(out, &header);
        let assembler = Assembler::new(machine.pages, machine.address_bits, now_ns(), false);
        Ok(Self { observer: observer.ok(), sink: Sink::new(assembler, writer), kinds, notes })
    }
}

/// The tracer's end of the way to the new process: its number comes in, leave to go on goes out.
struct Gate {
    hello: File,
    leave: File,
}

/// The new process's end.
struct Door {
    hello: OwnedFd,
    leave: OwnedFd,
}

fn gate() -> io::Result<(Gate, Door)> {
    let flags = rustix::pipe::PipeFlags::CLOEXEC;
    let (hello_out, hello_in) = rustix::pipe::pipe_with(flags)?;
    let (leave_out, leave_in) = rustix::pipe::pipe_with(flags)?;
    let gate = Gate { hello: hello_out.into(), leave: leave_in.into() };
    Ok((gate, Door { hello: hello_in, leave: leave_out }))
}

/// What the starting thread says.
enum Told {
    Observer(io::Result<Observer>),
    Started(Result<u32, RecordError>),
}

fn starter(
    options: &Options,
    machine: &Machine,
    door: Door,
    orders: &Receiver<()>,
    reports: &Sender<Told>,
) {
    // A receiver that is gone means that the recording failed: then there is nothing left to do.
    let _ = reports.send(Told::Observer(Observer::open(Scope::UserFaults, &machine.cpus)));
    if orders.recv().is_ok() {
        let started = launch::start_prepared(&options.command, |command| {
            sys::wait_before_exec(command, door.hello, door.leave, seccomp::filter());
        });
        let _ = reports.send(Told::Started(started));
        let _ = orders.recv();
    }
}

fn starter_died() -> RecordError {
    RecordError::System {
        what: "start the command",
        error: io::Error::other("a thread of the recorder ended early"),
    }
}

/// Empties the ring buffers and takes over the tracer's observations until it is done.
fn collector<W: Write>(
    mut observer: Option<Observer>,
    mut sink: Sink<W>,
    shared: &Shared,
    interrupts: &Interrupts,
) -> Result<Sink<W>, TraceError> {
    let mut horizon_ns = 0;
    loop {
        let last = shared.ended.load(Ordering::Acquire);
        let seen_ns = now_ns();
        if let Some(observer) = &mut observer {
            observer.drain(sink.pending());
        }
        let mut observed = shared.observed.lock().unwrap_or_else(PoisonError::into_inner);
        sink.pending().append(&mut observed);
        drop(observed);
        if last {
            sink.finish(now_ns())?;
            return Ok(sink);
        }
        sink.advance(horizon_ns)?;
        horizon_ns = seen_ns;
        let root = sink.assembler.root_pid().and_then(|root| RawPid::from_raw(root as i32));
        if let Some(root) = root.filter(|_| interrupts.stop()) {
            // One that has ended meanwhile needs no killing.
            let _ = kill_process(root, Signal::KILL);
        }
        thread::sleep(ROUND);
    }
}

/// Attaches to the new process and handles every stop until the tree is gone.
fn trace(
    machine: &Machine,
    mut gate: Gate,
    observed: &Mutex<Vec<Raw>>,
) -> Result<Children, RecordError> {
    let (meter, began_ns) = (Meter::start(), now_ns());
    let mut number = [0; 4];
    gate.hello
        .read_exact(&mut number)
        .map_err(|error| RecordError::System { what: "hear from the new process", error })?;
    let root = u32::from_ne_bytes(number);
    let attached = attach(root);
    let leave = [u8::from(attached.is_ok())];
    let told = gate.leave.write_all(&leave);
    attached.map_err(|error| permission::ptrace_refused(&error))?;
    told.map_err(|error| RecordError::System { what: "let the new process go on", error })?;
    let children = Children::new(root, began_ns, meter);
    let mut tracer = Tracer {
        machine,
        observed,
        root,
        children,
        executed: false,
        tasks: HashMap::new(),
        early: HashSet::new(),
    };
    tracer.run().map_err(|error| RecordError::System { what: "trace the command", error })?;
    Ok(tracer.children)
}

fn attach(root: u32) -> io::Result<()> {
    use ptrace::Options as Option;
    let options = Option::PTRACE_O_TRACESYSGOOD
        | Option::PTRACE_O_TRACECLONE
        | Option::PTRACE_O_TRACEFORK
        | Option::PTRACE_O_TRACEVFORK
        | Option::PTRACE_O_TRACEEXEC
        | Option::PTRACE_O_TRACEEXIT
        | Option::PTRACE_O_TRACESECCOMP
        // Without a tracer the filter would make every memory call fail.
        | Option::PTRACE_O_EXITKILL;
    Ok(ptrace::seize(Pid::from_raw(root as i32), options)?)
}

/// What the tracer remembers of a task.
#[derive(Debug, Clone, Copy)]
struct Traced {
    pid: u32,
    /// The call it is in.
    call: i64,
    clone_flags: u64,
}

/// Handles the stops.
struct Tracer<'a> {
    machine: &'a Machine,
    observed: &'a Mutex<Vec<Raw>>,
    root: u32,
    children: Children,
    /// Whether the first process has become the command; before, its calls are ours.
    executed: bool,
    tasks: HashMap<u32, Traced>,
    /// New tasks that stopped before their parent's stop told of them; they wait for it, so that nothing
    /// they do is seen before their fork.
    early: HashSet<u32>,
}

impl Tracer<'_> {
    fn run(&mut self) -> io::Result<()> {
        loop {
            // Until the exec succeeded only stops are taken: if it fails, the process is let go, and the
            // thread that started it waits for its end.
            let next = if self.executed { wait_any()? } else { wait_stopped(self.root)? };
            let Some((tid, status)) = next else { return Ok(()) };
            match status {
                Status::Ended(outcome) => {
                    self.see(tid, Seen::Gone { status: None });
                    self.tasks.remove(&tid);
                    self.children.note(tid, outcome);
                }
                Status::Stopped { event: libc::PTRACE_EVENT_STOP, .. }
                    if tid != self.root && !self.tasks.contains_key(&tid) =>
                {
                    self.early.insert(tid);
                }
                Status::Stopped { signal, event } => {
                    let how = self.stopped(tid, signal, event)?;
                    sys::resume(tid, how)?;
                    if how == Resume::Untraced {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Looks at a stopped task and says how it goes on.
    fn stopped(&mut self, tid: u32, signal: i32, event: i32) -> io::Result<Resume> {
        match event {
            0 if signal == libc::SIGTRAP | 0x80 => Ok(self.call_ended(tid)),
            0 => Ok(Resume::WithSignal(signal)),
            libc::PTRACE_EVENT_SECCOMP => Ok(self.call_begins(tid)),
            libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK | libc::PTRACE_EVENT_CLONE => {
                self.new_task(tid)?;
                Ok(Resume::ToCallsEnd)
            }
            libc::PTRACE_EVENT_EXEC => {
                self.executed(tid);
                Ok(Resume::WithSignal(0))
            }
            libc::PTRACE_EVENT_EXIT => {
                let status = ptrace::getevent(Pid::from_raw(tid as i32)).ok();
                self.see(tid, Seen::Gone { status: status.map(|status| status as u32) });
                Ok(Resume::WithSignal(0))
            }
            // A new task's first stop has SIGTRAP, a stop by job control its signal.
            libc::PTRACE_EVENT_STOP if signal != libc::SIGTRAP => Ok(Resume::StayStopped),
            _ => Ok(Resume::WithSignal(0)),
        }
    }

    fn call_begins(&mut self, tid: u32) -> Resume {
        let Ok(CallInfo::Entry { number, arguments }) = sys::call_info(tid) else {
            return Resume::WithSignal(0);
        };
        let call = Call::from_number(number);
        let clone_flags =
            if call == Some(Call::Fork) { clone_flags(tid, number, &arguments) } else { 0 };
        let task = self.task(tid);
        task.call = number;
        task.clone_flags = clone_flags;
        self.see(tid, Seen::CallBegins { number, arguments });
        Resume::ToCallsEnd
    }

    fn call_ended(&mut self, tid: u32) -> Resume {
        if let Ok(CallInfo::Exit { result }) = sys::call_info(tid) {
            let number = self.task(tid).call;
            if !self.executed && calls::failed(result) && result != i64::from(-libc::ENOEXEC) {
                return Resume::Untraced;
            }
            if Call::from_number(number) == Some(Call::Shmat) && result > 0 {
                self.see_attached(tid, result as u64);
            }
            self.see(tid, Seen::CallEnds { number, result, stack: None, foreign: false });
        }
        Resume::WithSignal(0)
    }

    /// A shmat's result does not tell how long the mapping is.
    fn see_attached(&mut self, tid: u32, start: u64) {
        let mappings = tracee::mappings_of(self.task(tid).pid);
        if let Some(mapping) = mappings.into_iter().find(|mapping| mapping.start == start) {
            self.see(tid, Seen::Mapped(mapping));
        }
    }

    fn new_task(&mut self, tid: u32) -> io::Result<()> {
        let Ok(child) = ptrace::getevent(Pid::from_raw(tid as i32)) else { return Ok(()) };
        let child = child as u32;
        let parent = *self.task(tid);
        let thread = parent.clone_flags & libc::CLONE_THREAD as u64 != 0;
        let pid = if thread { parent.pid } else { child };
        self.tasks.insert(child, Traced { pid, call: -1, clone_flags: 0 });
        self.see(tid, Seen::NewTask { child, clone_flags: parent.clone_flags });
        if self.early.remove(&child) {
            sys::resume(child, Resume::WithSignal(0))?;
        }
        Ok(())
    }

    fn executed(&mut self, tid: u32) {
        self.executed = true;
        let pid = self.task(tid).pid;
        let mappings = tracee::mappings_of(pid);
        let present = tracee::present_in(pid, &mappings, self.machine.pages);
        self.see(tid, Seen::ExecBegins { name: tracee::name_of(pid) });
        for mapping in mappings {
            self.see(tid, Seen::Mapped(mapping));
        }
        for range in present {
            self.see(tid, Seen::Populated { first: range.first, pages: range.count });
        }
        let number = libc::SYS_execve;
        self.see(tid, Seen::CallEnds { number, result: 0, stack: None, foreign: false });
    }

    fn task(&mut self, tid: u32) -> &mut Traced {
        self.tasks.entry(tid).or_insert_with(|| {
            let pid = tracee::process_of(tid).unwrap_or(tid);
            Traced { pid, call: -1, clone_flags: 0 }
        })
    }

    /// Adds an observation. Its time is read under the lock: what is not there when the collector looks
    /// is later than its look.
    fn see(&mut self, tid: u32, what: Seen) {
        if !self.executed {
            return;
        }
        let pid = self.task(tid).pid;
        let mut observed = self.observed.lock().unwrap_or_else(PoisonError::into_inner);
        observed.push(Raw { time_ns: now_ns(), pid, tid, what });
    }
}

/// The flags of a clone: clone3 has them in memory.
fn clone_flags(tid: u32, number: i64, arguments: &[u64; 6]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if number == libc::SYS_vfork {
        return (libc::CLONE_VM | libc::CLONE_VFORK) as u64;
    } else if number == libc::SYS_fork {
        return 0;
    }
    if number == libc::SYS_clone3 {
        let address = arguments[0] as ptrace::AddressType;
        return ptrace::read(Pid::from_raw(tid as i32), address).map_or(0, |flags| flags as u64);
    }
    arguments[0]
}
