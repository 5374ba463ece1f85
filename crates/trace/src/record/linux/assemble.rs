//! From observations to a trace's events.
//!
//! Observations come in time order. For each live task the assembler remembers what has begun and not
//! ended: a system call, a page fault, an execve. Protocol:
//!
//! - a call becomes an event when it returned and succeeded; it stands in the trace where it returned,
//!   or where it began if it takes pages away (see [`Call::takes_away`]);
//! - a fault becomes an event when it was resolved: an access that ended in a signal does not;
//! - durations are by [clocks](super::clock) that stand still while a task does not run;
//! - an execve becomes [`Event::Exec`] and the mappings it left, when it returned.

use std::collections::HashMap;

use super::calls::{self, Call, Pages};
use super::clock::CpuClocks;
use super::exec::Exec;
use super::queue::{Place, Queue};
use super::raw::{Raw, RawMapping, Seen};
use super::taskstats::Accounts;
use crate::event::{
    Entry, Event, FaultFlags, ForkFlags, PageRange, SLOW_FAULT_NS, TaskId, TaskTimes,
};
use crate::gap::{Gap, GapCause};

/// What the assembler knows about a live task.
#[derive(Debug)]
struct Task {
    id: TaskId,
    pid: u32,
    /// The program it runs, as far as an exec told.
    name: Vec<u8>,
    call: Option<Begun>,
    /// By its clock, when it began.
    fault: Option<(u64, FaultFlags)>,
    exec: Option<Exec>,
    times: TaskTimes,
}

/// A system call that has begun.
#[derive(Debug)]
struct Begun {
    call: Call,
    arguments: [u64; 6],
    /// By the task's clock.
    clock_ns: u64,
    place: Option<Place>,
    /// Pages a shmat was given.
    attached: Option<PageRange>,
}

/// Things the trailer reports.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tally {
    /// When the last task of the command's first process was gone, on CLOCK_MONOTONIC.
    pub root_gone_ns: Option<u64>,
    pub lost: u64,
    pub failed_calls: u64,
    pub foreign_calls: u64,
    pub teardown_ns: u64,
}

/// Turns observations into events.
#[derive(Debug)]
pub(super) struct Assembler {
    pages: Pages,
    /// Addresses from here on are the kernel's.
    address_end: u64,
    start_ns: u64,
    tasks: HashMap<u32, Task>,
    next_id: u32,
    /// The command's first process.
    root_pid: Option<u32>,
    queue: Queue,
    /// Shared memory attached, by process and page, for shmdt.
    attached: HashMap<(u32, u64), PageRange>,
    /// When the exit of a task began, by its clock, whose memory may still have to be freed.
    exiting: HashMap<u32, u64>,
    clocks: CpuClocks,
    /// Whether the times between observations are the command's own.
    measures: bool,
    accounts: Accounts,
    pub tally: Tally,
    /// Processes that ran unseen.
    pub gaps: Vec<Gap>,
    /// Processes that were not gone when the recording stopped, with their programs.
    pub left: Vec<(u32, Vec<u8>)>,
}

impl Assembler {
    /// Time 0 of the trace is `start_ns`. Without `measures` no durations are recorded: they would be
    /// mostly the recorder's.
    pub(super) fn new(pages: Pages, address_bits: u8, start_ns: u64, measures: bool) -> Self {
        Self {
            pages,
            address_end: 1 << address_bits,
            start_ns,
            tasks: HashMap::new(),
            next_id: 0,
            root_pid: None,
            queue: Queue::default(),
            attached: HashMap::new(),
            exiting: HashMap::new(),
            clocks: CpuClocks::default(),
            measures,
            accounts: Accounts::default(),
            tally: Tally::default(),
            gaps: Vec::new(),
            left: Vec::new(),
        }
    }

    /// Where the kernel's accounting of exited tasks is put as it arrives.
    pub(super) fn accounts(&mut self) -> &mut Accounts {
        &mut self.accounts
    }

    /// The next finished event.
    pub(super) fn pop(&mut self) -> Option<Entry> {
        self.queue.pop()
    }

    /// Takes in one observation.
    pub(super) fn feed(&mut self, raw: Raw) {
        let Raw { time_ns: at, pid, tid, what } = raw;
        let time_ns = at.saturating_sub(self.start_ns);
        match what {
            Seen::FaultBegins { .. } | Seen::FaultEnds { .. } if self.is_unseen(tid) => {}
            Seen::FaultBegins { address, flags } => {
                self.fault_begins(time_ns, pid, tid, address, flags)
            }
            Seen::FaultEnds { address } => self.fault_ends(time_ns, pid, tid, address),
            Seen::CallBegins { number, arguments } => {
                self.call_begins(time_ns, pid, tid, number, arguments);
            }
            Seen::CallEnds { foreign: true, .. } => self.foreign_call(time_ns, tid),
            Seen::CallEnds { number, result, stack, .. } => {
                self.call_ends(time_ns, pid, tid, number, result, stack);
            }
            Seen::NewTask { child, clone_flags } => {
                self.new_task(time_ns, pid, tid, child, clone_flags);
            }
            Seen::ExecBegins { name } => self.exec_begins(time_ns, pid, tid, name),
            Seen::Mapped(mapping) => self.mapped(tid, mapping),
            Seen::Populated { first, pages } => self.populated(time_ns, tid, first, pages),
            Seen::SpaceFreed => self.space_freed(time_ns, tid),
            Seen::Switched { out } => self.switched(time_ns, tid, out),
            Seen::Unseen { cause, name } => Gap::note(&mut self.gaps, cause, named(&name, pid)),
            Seen::Gone { status } => self.gone(time_ns, tid, status),
            Seen::Lost { count } => {
                self.tally.lost += count;
                self.queue.push(time_ns, TaskId(0), Event::Lost { count });
            }
        }
    }

    /// Ends everything that is still under way when the recording stops.
    pub(super) fn finish(&mut self, end_ns: u64) {
        let time_ns = end_ns.saturating_sub(self.start_ns);
        let mut live: Vec<u32> = self.tasks.keys().copied().collect();
        live.sort_by_key(|tid| self.tasks[tid].id);
        for tid in live {
            self.settle(time_ns, tid, None);
            if let Some(task) = self.tasks.remove(&tid) {
                if self.left.iter().all(|&(pid, _)| pid != task.pid) {
                    self.left.push((task.pid, task.name));
                }
                self.queue.push(time_ns, task.id, Event::Times(Box::new(task.times)));
            }
        }
    }

    /// A recording by ptrace sees tasks by it alone, while faults come from perf: those of a task that
    /// ptrace may not follow belong to no address space of the trace.
    fn is_unseen(&self, tid: u32) -> bool {
        !self.measures && !self.tasks.contains_key(&tid)
    }

    fn switched(&mut self, time_ns: u64, tid: u32, out: bool) {
        if !out {
            self.clocks.go_on(tid, time_ns);
        } else if self.tasks.contains_key(&tid) || self.exiting.contains_key(&tid) {
            self.clocks.stop(tid, time_ns);
        }
    }

    /// A call by another ABI. If it is the first return into a program of that ABI, its exec is done.
    fn foreign_call(&mut self, time_ns: u64, tid: u32) {
        self.tally.foreign_calls += 1;
        if self.tasks.get(&tid).is_some_and(|task| task.exec.is_some()) {
            self.settle(time_ns, tid, None);
        }
    }

    /// The task `tid`; one never heard of appears here, as its fork must have been lost.
    fn task(&mut self, time_ns: u64, pid: u32, tid: u32) -> &mut Task {
        self.tasks.entry(tid).or_insert_with(|| {
            let id = TaskId(self.next_id);
            self.next_id += 1;
            self.root_pid.get_or_insert(pid);
            self.queue.push(time_ns, id, Event::Start { pid });
            Task::new(id, pid)
        })
    }

    fn fault_begins(&mut self, time_ns: u64, pid: u32, tid: u32, address: u64, flags: FaultFlags) {
        if address < self.address_end {
            let clock_ns = self.clocks.read(tid, time_ns);
            self.task(time_ns, pid, tid).fault = Some((clock_ns, flags));
        }
    }

    fn fault_ends(&mut self, time_ns: u64, pid: u32, tid: u32, address: u64) {
        if address >= self.address_end {
            return;
        }
        let page = address >> self.pages.shift;
        let clock_ns = self.clocks.read(tid, time_ns);
        let task = self.task(time_ns, pid, tid);
        let begun = task.fault.take();
        task.times.add_fault(begun.map_or(0, |(began_ns, _)| clock_ns.saturating_sub(began_ns)));
        let flags = begun.map_or(FaultFlags::empty(), |(_, flags)| flags);
        if let Some(exec) = &mut task.exec {
            exec.faulted(page, flags);
        } else {
            let id = task.id;
            self.queue.push(time_ns, id, Event::Fault { page, flags });
        }
    }

    fn call_begins(&mut self, time_ns: u64, pid: u32, tid: u32, number: i64, arguments: [u64; 6]) {
        let Some(call) = Call::from_number(number) else { return };
        self.settle(time_ns, tid, None);
        let id = self.task(time_ns, pid, tid).id;
        let clock_ns = self.clocks.read(tid, time_ns);
        if call == Call::Exit {
            self.exiting.insert(tid, clock_ns);
            return;
        }
        let place = call.takes_away(&arguments).then(|| self.queue.keep(time_ns, id));
        let begun = Begun { call, arguments, clock_ns, place, attached: None };
        self.task(time_ns, pid, tid).call = Some(begun);
    }

    fn call_ends(
        &mut self,
        time_ns: u64,
        pid: u32,
        tid: u32,
        number: i64,
        result: i64,
        stack: Option<u64>,
    ) {
        let Some(call) = Call::from_number(number) else { return };
        let measures = self.measures;
        let clock_ns = self.clocks.read(tid, time_ns);
        let task = self.task(time_ns, pid, tid);
        let begun = task.call.take_if(|begun| begun.call == call);
        if let Some(begun) = begun.as_ref().filter(|_| measures) {
            let elapsed_ns = clock_ns.saturating_sub(begun.clock_ns);
            task.times.add_call(call, elapsed_ns, calls::failed(result));
        }
        if call == Call::Exec && result == 0 {
            return self.settle(time_ns, tid, stack);
        }
        // A new task's first return has no beginning.
        let Some(begun) = begun else { return };
        if calls::failed(result) {
            self.tally.failed_calls += 1;
        }
        let event = if calls::failed(result) { None } else { self.event_of(pid, &begun, result) };
        self.put(time_ns, tid, begun.place, event);
    }

    fn event_of(&mut self, pid: u32, begun: &Begun, result: i64) -> Option<Event> {
        let page = |address: u64| address >> self.pages.shift;
        match begun.call {
            Call::Shmat => {
                let range = begun.attached?;
                self.attached.insert((pid, page(result as u64)), range);
                let flags = calls::map_flags(libc::MAP_SHARED as u64);
                let writable = begun.arguments[2] & libc::SHM_RDONLY as u64 == 0;
                let protection = calls::protection(if writable { 3 } else { 1 });
                Some(Event::Mmap { range, protection, flags })
            }
            Call::Shmdt => {
                let first = page(begun.arguments[0]);
                let own = self.attached.remove(&(pid, first));
                // A forked child detaches what its parent attached.
                let inherited = || {
                    let mut all = self.attached.values();
                    all.find(|range| range.first == first).copied()
                };
                own.or_else(inherited).map(|range| Event::Munmap { range })
            }
            call => calls::event_of(call, &begun.arguments, result, self.pages),
        }
    }

    fn put(&mut self, time_ns: u64, tid: u32, place: Option<Place>, event: Option<Event>) {
        match (place, event) {
            (Some(place), event) => self.queue.resolve(place, event),
            (None, Some(event)) => {
                if let Some(task) = self.tasks.get(&tid) {
                    self.queue.push(time_ns, task.id, event);
                }
            }
            (None, None) => {}
        }
    }

    fn new_task(&mut self, time_ns: u64, pid: u32, tid: u32, child: u32, clone_flags: u64) {
        // A task with this number is gone even if the kernel's word of it was lost.
        self.gone(time_ns, child, None);
        self.exiting.remove(&child);
        self.clocks.forget(child);
        let measures = self.measures;
        let clock_ns = self.clocks.read(tid, time_ns);
        let parent = self.task(time_ns, pid, tid);
        let parent_id = parent.id;
        let in_fork = |begun: &&Begun| measures && begun.call == Call::Fork;
        if let Some(begun) = parent.call.as_ref().filter(in_fork) {
            parent.times.fork_ns += clock_ns.saturating_sub(begun.clock_ns);
        }
        let name = parent.name.clone();
        let flags = fork_flags(clone_flags);
        let child_pid = if flags.contains(ForkFlags::THREAD) { pid } else { child };
        let id = TaskId(self.next_id);
        self.next_id += 1;
        self.tasks.insert(child, Task { name, ..Task::new(id, child_pid) });
        self.queue.push(time_ns, parent_id, Event::Fork { child: id, pid: child_pid, flags });
    }

    fn exec_begins(&mut self, time_ns: u64, pid: u32, tid: u32, name: Vec<u8>) {
        self.adopt_leader(pid, tid);
        let task = self.task(time_ns, pid, tid);
        task.fault = None;
        task.name.clone_from(&name);
        task.exec = Some(Exec::new(name));
    }

    /// When a thread other than the first calls execve, the kernel ends all others and gives it the
    /// number of the first: the task that called goes on under the process's number.
    fn adopt_leader(&mut self, pid: u32, tid: u32) {
        let in_exec = |task: &Task| {
            task.call.as_ref().is_some_and(|begun| begun.call == Call::Exec) && task.pid == pid
        };
        if self.tasks.get(&tid).is_some_and(in_exec) {
            return;
        }
        let caller = self.tasks.iter().find(|(_, task)| in_exec(task)).map(|(&tid, _)| tid);
        if let Some(task) = caller.and_then(|caller| self.tasks.remove(&caller)) {
            self.tasks.insert(tid, task);
        }
    }

    fn mapped(&mut self, tid: u32, mapping: RawMapping) {
        let pages = self.pages;
        let Some(task) = self.tasks.get_mut(&tid) else { return };
        if let Some(exec) = &mut task.exec {
            exec.mapped(mapping);
        } else if let Some(begun) = &mut task.call {
            begun.attached = Some(pages.range(mapping.start, mapping.length));
        }
    }

    fn populated(&mut self, time_ns: u64, tid: u32, first: u64, pages: u64) {
        let range = PageRange { first, count: pages };
        let Some(task) = self.tasks.get_mut(&tid) else { return };
        match &mut task.exec {
            Some(exec) => exec.populated(range),
            None => self.queue.push(time_ns, task.id, Event::Populate { range }),
        }
    }

    /// Since Linux 6.16 perf says that a task is gone before its memory is freed, earlier kernels after.
    fn space_freed(&mut self, time_ns: u64, tid: u32) {
        if let Some(began_ns) = self.exiting.remove(&tid) {
            let clock_ns = self.clocks.read(tid, time_ns);
            self.tally.teardown_ns += clock_ns.saturating_sub(began_ns);
            self.clocks.forget(tid);
        }
    }

    fn gone(&mut self, time_ns: u64, tid: u32, status: Option<u32>) {
        // A task does not end inside an execve that has begun a new program: the kernel ends its perf
        // events there if the program has other privilege, and it lives on unseen.
        let in_exec = |task: &Task| {
            task.exec.is_some() && task.call.as_ref().is_some_and(|begun| begun.call == Call::Exec)
        };
        if let Some(task) = self.tasks.get(&tid).filter(|task| in_exec(task)) {
            Gap::note(&mut self.gaps, GapCause::Hidden, named(&task.name, task.pid));
        }
        self.settle(time_ns, tid, None);
        let Some(mut task) = self.tasks.remove(&tid) else { return };
        let clock_ns = self.clocks.read(tid, time_ns);
        self.exiting.insert(tid, clock_ns);
        let account = self.accounts.take(tid);
        task.times.accounted = account.map(|account| account.accounted);
        let status = status.or(account.map(|account| account.status));
        if self.root_pid.is_none_or(|root| root == task.pid) {
            self.tally.root_gone_ns = Some(time_ns + self.start_ns);
        }
        self.queue.push(time_ns, task.id, Event::Times(Box::new(task.times)));
        self.queue.push(time_ns, task.id, Event::Exit { status });
    }

    /// Ends what `tid` has begun: emits a finished execve, gives up a call that never returned.
    fn settle(&mut self, time_ns: u64, tid: u32, stack: Option<u64>) {
        let Some(task) = self.tasks.get_mut(&tid) else { return };
        let id = task.id;
        if let Some(place) = task.call.take().and_then(|begun| begun.place) {
            self.queue.resolve(place, None);
        }
        let Some(exec) = task.exec.take() else { return };
        for event in exec.finish(stack, self.pages) {
            self.queue.push(time_ns, id, event);
        }
    }
}

impl Task {
    fn new(id: TaskId, pid: u32) -> Self {
        let times = TaskTimes::default();
        Self { id, pid, name: Vec::new(), call: None, fault: None, exec: None, times }
    }
}

/// A process as people look for it.
pub(super) fn named(program: &[u8], pid: u32) -> String {
    let program = String::from_utf8_lossy(program);
    format!("{} ({pid})", if program.is_empty() { "?" } else { &program })
}

impl TaskTimes {
    fn add_fault(&mut self, elapsed_ns: u64) {
        self.faults += 1;
        if elapsed_ns < SLOW_FAULT_NS {
            self.fault_ns += elapsed_ns;
        } else {
            self.slow_faults += 1;
            self.slow_fault_ns += elapsed_ns;
        }
    }

    fn add_call(&mut self, call: Call, elapsed_ns: u64, failed: bool) {
        if call.is_memory() {
            self.call_ns += elapsed_ns;
        } else if call == Call::Exec && !failed {
            self.exec_ns += elapsed_ns;
        }
    }
}

fn fork_flags(clone_flags: u64) -> ForkFlags {
    let has = |flag: libc::c_int| clone_flags & flag as u64 != 0;
    let mut flags = ForkFlags::empty();
    flags.set(ForkFlags::SHARES_SPACE, has(libc::CLONE_VM));
    flags.set(ForkFlags::THREAD, has(libc::CLONE_THREAD));
    flags.set(ForkFlags::VFORK, has(libc::CLONE_VFORK));
    flags
}
