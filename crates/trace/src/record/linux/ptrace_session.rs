//! A recording through ptrace, for users who may not use perf's tracepoints.
//!
//! The command is stopped at each call. (A seccomp filter could stop it at the interesting ones alone, but
//! cannot be taken off again: what the tracer does not reach, or leaves behind, would fail.) Page faults
//! come from perf's software event, which an ordinary user may have for user code. Three threads: the
//! *starter* opens the fault event and starts the command (perf events follow the thread that opened
//! them), the *tracer* handles the stops, the *collector* (this thread) empties the ring buffers, hands on
//! signals and writes the trace.
//!
//! The tracer ends when the command has. The kernel then detaches what is left from it, without
//! interrupting a system call: nothing else would be as gentle.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use nix::sys::pthread::{Pthread, pthread_kill, pthread_self};
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::assemble::Assembler;
use super::calls::{self, Call};
use super::children::{Children, Meter, Status, Subreaper, now_ns, wait_any, wait_stopped};
use super::error::RecordError;
use super::machine::Machine;
use super::perf::{Observer, Scope};
use super::raw::{Raw, Seen};
use super::signals::Signals;
use super::sink::Sink;
use super::sys::{self, CallInfo, Resume};
use super::{Options, Report, launch, missing, permission, privilege, tracee};
use crate::error::TraceError;
use crate::gap::GapCause;
use crate::header::{Kinds, Method};
use crate::writer::TraceWriter;

/// Interrupts the tracer's wait. Nobody else uses it, and whoever does not expect it ignores it.
const BELL: Signal = Signal::SIGURG;

/// Time between two looks at the ring buffers, which are small here.
const ROUND: Duration = Duration::from_millis(5);

/// Records the command of `options` into `out`.
pub(super) fn record<W: Write + Send>(
    options: &Options,
    machine: &Machine,
    notes: Vec<String>,
    out: W,
) -> Result<Report, RecordError> {
    let system = |what| move |error| RecordError::System { what, error };
    refuse_privileged(options)?;
    let _subreaper = Subreaper::become_one().map_err(system("become a subreaper"))?;
    let mut signals = Signals::catch().map_err(system("catch signals"))?;
    let bell_before = sys::let_interrupt(BELL).map_err(system("catch signals"))?;
    let (gate, door) = gate().map_err(system("make a pipe"))?;
    let shared = Shared::default();
    let report = thread::scope(|scope| {
        let (to_starter, orders) = channel();
        let (reports, from_starter) = channel();
        scope.spawn(move || starter(options, machine, door, &orders, &reports));
        let observer = match from_starter.recv() {
            Ok(Told::Observer(observer)) => observer,
            _ => return Err(starter_died()),
        };
        let Session { observer, sink, kinds, notes } =
            Session::begin(options, machine, observer, notes, out)?;
        to_starter.send(()).map_err(|_| starter_died())?;
        let tracer = scope.spawn(|| trace(options, machine, gate, &shared));
        let sink = collector(observer, sink, &shared, &mut signals);
        if sink.is_err() {
            shared.end_tracer_and_wait();
        }
        let traced = tracer.join().map_err(|_| starter_died())?;
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
        let method = Method::Ptrace;
        Report::conclude(options, sink?, kinds, method, &children, &mut signals, notes)
    });
    sys::restore(BELL, &bell_before);
    report
}

/// Refuses a command that would not get its privilege.
fn refuse_privileged(options: &Options) -> Result<(), RecordError> {
    let Some(program) = options.command.first().filter(|_| !privilege::tracing_keeps_it()) else {
        return Ok(());
    };
    let file = launch::find(program);
    match file.and_then(|file| privilege::gained(&file, std::process::id())) {
        Some(privilege) => {
            Err(RecordError::Privileged { command: program.to_string_lossy().into(), privilege })
        }
        None => Ok(()),
    }
}

/// What tracer and collector share.
#[derive(Debug, Default)]
struct Shared {
    /// The tracer's observations on their way to the collector.
    observed: Mutex<Vec<Raw>>,
    /// The command's first process, once it is known.
    root: AtomicU32,
    /// That process is stopped by job control.
    root_stopped: AtomicBool,
    /// The tracer, whose wait must be interrupted to end it early.
    tracer: OnceLock<Pthread>,
    /// The tracer shall end although the command has not.
    enough: AtomicBool,
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
        notes.extend(missing(kinds));
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
            sys::wait_before_exec(command, door.hello, door.leave);
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

/// Empties the ring buffers, takes over the tracer's observations and hands on signals until it is done.
fn collector<W: Write>(
    mut observer: Option<Observer>,
    mut sink: Sink<W>,
    shared: &Shared,
    signals: &mut Signals,
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
        attend(shared, signals);
        thread::sleep(ROUND);
    }
}

/// Hands on signals, and does what they say.
fn attend(shared: &Shared, signals: &mut Signals) {
    let root = shared.root.load(Ordering::Acquire);
    if root == 0 {
        return;
    }
    signals.hand_on(root);
    if shared.root_stopped.load(Ordering::Acquire) {
        signals.stop_along();
    }
    if signals.end_insisted() {
        shared.end_tracer();
    }
}

impl Shared {
    /// Ends the tracer, if it is still at work. The bell may ring just before its wait: then it takes
    /// another.
    fn end_tracer(&self) {
        self.enough.store(true, Ordering::Release);
        if let Some(&tracer) = self.tracer.get().filter(|_| !self.ended.load(Ordering::Acquire)) {
            // It has ended if it is not there.
            let _ = pthread_kill(tracer, BELL);
        }
    }

    fn end_tracer_and_wait(&self) {
        while !self.ended.load(Ordering::Acquire) {
            self.end_tracer();
            thread::sleep(ROUND);
        }
    }
}

/// Attaches to the new process and handles every stop until the command, or with `until_last` its last
/// descendant, is gone.
fn trace(
    options: &Options,
    machine: &Machine,
    gate: Gate,
    shared: &Shared,
) -> Result<Children, RecordError> {
    let _ = shared.tracer.set(pthread_self());
    let traced = Tracer::attach(options, machine, gate, shared).and_then(|mut tracer| {
        let run = tracer.run();
        run.map_err(|error| RecordError::System { what: "trace the command", error })?;
        Ok(tracer.children)
    });
    shared.ended.store(true, Ordering::Release);
    traced
}

/// Takes hold of process `root` and stops it.
fn seize(root: u32) -> io::Result<()> {
    use ptrace::Options as Option;
    let options = Option::PTRACE_O_TRACESYSGOOD
        | Option::PTRACE_O_TRACECLONE
        | Option::PTRACE_O_TRACEFORK
        | Option::PTRACE_O_TRACEVFORK
        | Option::PTRACE_O_TRACEEXEC
        | Option::PTRACE_O_TRACEEXIT;
    let root = Pid::from_raw(root as i32);
    ptrace::seize(root, options)?;
    Ok(ptrace::interrupt(root)?)
}

/// What the tracer remembers of a task.
#[derive(Debug, Clone, Copy)]
struct Traced {
    pid: u32,
    /// The call it is in, if it is one to observe.
    call: Option<i64>,
    clone_flags: u64,
    /// Whether the clone it is in has made a task that is traced too.
    child_traced: bool,
}

impl Traced {
    fn new(pid: u32) -> Self {
        Self { pid, call: None, clone_flags: 0, child_traced: false }
    }
}

/// Handles the stops.
struct Tracer<'a> {
    machine: &'a Machine,
    shared: &'a Shared,
    until_last: bool,
    /// Whether programs get their privilege although they are traced.
    keeps_privilege: bool,
    root: u32,
    children: Children,
    /// Whether the first process has become the command; before, its calls are ours.
    executed: bool,
    tasks: HashMap<u32, Traced>,
    /// New tasks that stopped before their parent's stop told of them; they wait for it, so that nothing
    /// they do is seen before their fork.
    early: HashSet<u32>,
}

impl<'a> Tracer<'a> {
    /// Takes hold of the new process, which waits at the gate, and lets it go on.
    fn attach(
        options: &Options,
        machine: &'a Machine,
        mut gate: Gate,
        shared: &'a Shared,
    ) -> Result<Self, RecordError> {
        let system = |what| move |error| RecordError::System { what, error };
        let (meter, began_ns) = (Meter::start(), now_ns());
        let mut number = [0; 4];
        gate.hello.read_exact(&mut number).map_err(system("hear from the new process"))?;
        let root = u32::from_ne_bytes(number);
        let seized = seize(root);
        let told = gate.leave.write_all(&[u8::from(seized.is_ok())]);
        seized.map_err(|error| permission::ptrace_refused(&error))?;
        told.map_err(system("let the new process go on"))?;
        shared.root.store(root, Ordering::Release);
        Ok(Self {
            machine,
            shared,
            until_last: options.until_last,
            keeps_privilege: privilege::tracing_keeps_it(),
            root,
            children: Children::new(root, began_ns, meter),
            executed: false,
            tasks: HashMap::new(),
            early: HashSet::new(),
        })
    }

    fn run(&mut self) -> io::Result<()> {
        while self.until_last || !self.children.ended() {
            // Until the exec succeeded only stops are taken: if it fails, the process is let go, and the
            // thread that started it waits for its end.
            let next = if self.executed {
                wait_any(&self.shared.enough)?
            } else {
                wait_stopped(self.root)?
            };
            let Some((tid, status)) = next else { return Ok(()) };
            match status {
                Status::Ended(outcome) => {
                    self.ended(tid);
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
                    if !self.executed && how == Resume::Untraced {
                        return Ok(());
                    }
                    if tid == self.root {
                        let stopped = how == Resume::StayStopped;
                        self.shared.root_stopped.store(stopped, Ordering::Release);
                    }
                }
            }
        }
        Ok(())
    }

    /// Looks at a stopped task and says how it goes on.
    fn stopped(&mut self, tid: u32, signal: i32, event: i32) -> io::Result<Resume> {
        match event {
            0 if signal == libc::SIGTRAP | 0x80 => return self.at_call(tid),
            0 => return Ok(Resume::ToNextCall(signal)),
            libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK | libc::PTRACE_EVENT_CLONE => {
                self.new_task(tid)?;
            }
            libc::PTRACE_EVENT_EXEC => self.executed(tid),
            libc::PTRACE_EVENT_EXIT => {
                let status = ptrace::getevent(Pid::from_raw(tid as i32)).ok();
                self.see(tid, Seen::Gone { status: status.map(|status| status as u32) });
            }
            // A new task's first stop has SIGTRAP, a stop by job control its signal.
            libc::PTRACE_EVENT_STOP if signal != libc::SIGTRAP => return Ok(Resume::StayStopped),
            _ => {}
        }
        Ok(Resume::ToNextCall(0))
    }

    /// A task stands at the beginning or the end of a call.
    fn at_call(&mut self, tid: u32) -> io::Result<Resume> {
        match sys::call_info(tid) {
            Ok(CallInfo::Entry { foreign: true, .. }) => {
                self.task(tid).call = None;
                let (number, result, stack) = (-1, 0, None);
                self.see(tid, Seen::CallEnds { number, result, stack, foreign: true });
            }
            Ok(CallInfo::Entry { number, arguments, .. }) => {
                return Ok(self.call_begins(tid, number, arguments));
            }
            Ok(CallInfo::Exit { result }) => return Ok(self.call_ended(tid, result)),
            // It was killed meanwhile.
            Ok(CallInfo::Other) | Err(_) => {}
        }
        Ok(Resume::ToNextCall(0))
    }

    fn call_begins(&mut self, tid: u32, number: i64, arguments: [u64; 6]) -> Resume {
        let call = Call::from_number(number);
        let observed = call.is_some() || number == libc::SYS_ptrace;
        let clone_flags =
            if call == Some(Call::Fork) { clone_flags(tid, number, &arguments) } else { 0 };
        let task = self.task(tid);
        task.call = observed.then_some(number);
        task.clone_flags = clone_flags;
        task.child_traced = false;
        if call == Some(Call::Exec) && self.executed && !self.keeps_privilege {
            let program = privilege::executed_by(tid, number, &arguments);
            let pid = self.task(tid).pid;
            if let Some(program) = program.filter(|file| privilege::gained(file, pid).is_some()) {
                return self.let_go(tid, &program);
            }
        }
        if call.is_some() {
            self.see(tid, Seen::CallBegins { number, arguments });
        }
        Resume::ToNextCall(0)
    }

    /// Lets a task go before it executes a program that would miss its privilege.
    fn let_go(&mut self, tid: u32, program: &Path) -> Resume {
        let name = program.file_name().unwrap_or_default().as_encoded_bytes().to_vec();
        self.see(tid, Seen::Unseen { cause: GapCause::Privileged, name });
        self.see(tid, Seen::Gone { status: None });
        self.tasks.remove(&tid);
        Resume::Untraced
    }

    fn call_ended(&mut self, tid: u32, result: i64) -> Resume {
        let task = self.task(tid);
        let Some(number) = task.call.take() else { return Resume::ToNextCall(0) };
        let untraced = task.clone_flags & libc::CLONE_UNTRACED as u64 != 0 && !task.child_traced;
        if !self.executed && calls::failed(result) && result != i64::from(-libc::ENOEXEC) {
            return Resume::Untraced;
        }
        match Call::from_number(number) {
            None => self.see_tracer(tid, result),
            Some(Call::Fork) if untraced && result > 0 => {
                let child = result as u32;
                let name = tracee::name_of(child);
                self.see_of(child, Seen::Unseen { cause: GapCause::Untraceable, name });
            }
            Some(Call::Shmat) if result > 0 => self.see_attached(tid, result as u64),
            _ => {}
        }
        self.see(tid, Seen::CallEnds { number, result, stack: None, foreign: false });
        Resume::ToNextCall(0)
    }

    /// A task that is traced cannot be traced by another, and none of the command's can be.
    fn see_tracer(&mut self, tid: u32, result: i64) {
        if result == i64::from(-libc::EPERM) {
            let name = tracee::name_of(self.task(tid).pid);
            self.see(tid, Seen::Unseen { cause: GapCause::Tracer, name });
        }
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
        self.task(tid).child_traced = true;
        let parent = *self.task(tid);
        let thread = parent.clone_flags & libc::CLONE_THREAD as u64 != 0;
        self.tasks.insert(child, Traced::new(if thread { parent.pid } else { child }));
        self.see(tid, Seen::NewTask { child, clone_flags: parent.clone_flags });
        if self.early.remove(&child) {
            sys::resume(child, Resume::ToNextCall(0))?;
        }
        Ok(())
    }

    /// A task is gone. If it was killed before it told of its last child, that waits for nobody.
    fn ended(&mut self, tid: u32) {
        self.see(tid, Seen::Gone { status: None });
        self.tasks.remove(&tid);
        let orphaned = |&child: &u32| {
            !tracee::parent_of(child).is_some_and(|parent| self.tasks.contains_key(&parent))
        };
        let orphans: Vec<u32> = self.early.iter().copied().filter(orphaned).collect();
        for child in orphans {
            self.early.remove(&child);
            // One that was killed too needs nothing.
            let _ = sys::resume(child, Resume::ToNextCall(0));
        }
    }

    fn executed(&mut self, tid: u32) {
        self.executed = true;
        let task = self.task(tid);
        task.call = None;
        let pid = task.pid;
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
        self.tasks.entry(tid).or_insert_with(|| Traced::new(tracee::process_of(tid).unwrap_or(tid)))
    }

    /// Adds an observation of a task.
    fn see(&mut self, tid: u32, what: Seen) {
        if self.executed {
            let pid = self.task(tid).pid;
            self.push(pid, tid, what);
        }
    }

    /// Adds one of a process that is not traced.
    fn see_of(&mut self, pid: u32, what: Seen) {
        self.push(pid, pid, what);
    }

    /// Its time is read under the lock: what is not there when the collector looks is later than its look.
    fn push(&self, pid: u32, tid: u32, what: Seen) {
        let mut observed = self.shared.observed.lock().unwrap_or_else(PoisonError::into_inner);
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
