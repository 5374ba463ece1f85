//! A recording through perf events.
//!
//! perf events follow the thread that opened them to its children, so one thread opens them, starts the
//! command and then only waits; the calling thread reads the ring buffers.

use std::io::Write;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};

use super::assemble::Assembler;
use super::children::{Children, Left, Meter, ROUND, Subreaper, now_ns};
use super::error::RecordError;
use super::launch;
use super::machine::Machine;
use super::perf::{Observer, Scope};
use super::signals::Signals;
use super::sink::Sink;
use super::taskstats::Listener;
use super::{Options, Report, missing, permission};
use crate::header::{Kinds, Method};
use crate::writer::TraceWriter;

/// Shortest time between two looks at the ring buffers. An event's time is read a little before the event is visible to us; what is older than a
/// whole round has arrived.
const SHORTEST_ROUND: Duration = Duration::from_millis(5);

/// Records the command of `options` into `out`.
pub(super) fn record<W: Write>(
    options: &Options,
    machine: &Machine,
    out: W,
) -> Result<Report, RecordError> {
    let _subreaper = Subreaper::become_one()
        .map_err(|error| RecordError::System { what: "become a subreaper", error })?;
    let mut signals =
        Signals::catch().map_err(|error| RecordError::System { what: "catch signals", error })?;
    thread::scope(|scope| {
        let (to_starter, orders) = channel();
        let (reports, from_starter) = channel();
        scope.spawn(move || starter(options, machine, orders, reports));
        let observer = match from_starter.recv() {
            Ok(Told::Observer(observer)) => observer?,
            _ => return Err(starter_died()),
        };
        let mut session = Session::begin(options, machine, *observer, out)?;
        let meter = Meter::start();
        let began_ns = now_ns();
        to_starter.send(()).map_err(|_| starter_died())?;
        let root = match from_starter.recv() {
            Ok(Told::Started(root)) => root?,
            _ => return Err(starter_died()),
        };
        let children = Children::new(root, began_ns, meter);
        // `to_starter` lives until here: the starter waits for its end.
        let children = session.run(options, children, &mut signals);
        drop(to_starter);
        session.end(options, &children?, &mut signals)
    })
}

/// What the starting thread says.
enum Told {
    Observer(Result<Box<Observer>, RecordError>),
    Started(Result<u32, RecordError>),
}

/// The starting thread: opens the events, starts the command when told to, and stays until the end.
fn starter(options: &Options, machine: &Machine, orders: Receiver<()>, reports: Sender<Told>) {
    let observer = Observer::open(Scope::Everything, &machine.cpus).map(Box::new);
    let observer = observer.map_err(|error| permission::perf_refused(&error));
    // A receiver that is gone means that the recording failed: then there is nothing left to do.
    let _ = reports.send(Told::Observer(observer));
    if orders.recv().is_ok() {
        let _ = reports.send(Told::Started(launch::start(&options.command)));
        let _ = orders.recv();
    }
}

fn starter_died() -> RecordError {
    let error = std::io::Error::other("the starting thread ended early");
    RecordError::System { what: "start the command", error }
}

/// A recording under way.
struct Session<W: Write> {
    observer: Observer,
    accounting: Option<Listener>,
    sink: Sink<W>,
    notes: Vec<String>,
    kinds: Kinds,
}

impl<W: Write> Session<W> {
    fn begin(
        options: &Options,
        machine: &Machine,
        observer: Observer,
        out: W,
    ) -> Result<Self, RecordError> {
        let mut notes = Vec::new();
        let mut kinds = observer.kinds();
        let accounting = match Listener::open(&machine.cpu_list) {
            Ok(listener) => {
                kinds |= Kinds::ACCOUNTING;
                Some(listener)
            }
            Err(error) => {
                notes.push(permission::no_accounting(&error));
                None
            }
        };
        notes.extend(missing(kinds));
        let header = machine.header(Method::Perf, kinds, options.command_bytes());
        let writer = TraceWriter::new(out, &header);
        let assembler = Assembler::new(machine.pages, machine.address_bits, now_ns(), true);
        Ok(Self { observer, accounting, sink: Sink::new(assembler, writer), notes, kinds })
    }

    /// Reads until the command, or with `until_last` its last descendant, is gone.
    fn run(
        &mut self,
        options: &Options,
        mut children: Children,
        signals: &mut Signals,
    ) -> Result<Children, RecordError> {
        let mut horizon_ns = 0;
        loop {
            let began = Instant::now();
            self.wait();
            let seen_ns = now_ns();
            self.collect();
            self.sink.advance(horizon_ns)?;
            horizon_ns = seen_ns;
            signals.hand_on(children.root());
            let left = children.reap();
            if children.stopped() {
                signals.stop_along();
            }
            let done = children.ended() && !options.until_last;
            if left == Left::None || done || signals.end_insisted() {
                self.collect();
                self.sink.finish(now_ns())?;
                return Ok(children);
            }
            thread::sleep(SHORTEST_ROUND.saturating_sub(began.elapsed()));
        }
    }

    /// Waits until a ring buffer fills, or a round is over.
    fn wait(&self) {
        let mut watched: Vec<_> = self
            .observer
            .descriptors()
            .map(|descriptor| PollFd::from_borrowed_fd(descriptor, PollFlags::IN))
            .collect();
        // An interrupted wait is a short one.
        let _ = poll(&mut watched, Some(&ROUND));
    }

    fn collect(&mut self) {
        self.observer.drain(self.sink.pending());
        if let Some(accounting) = &mut self.accounting {
            accounting.drain(self.sink.assembler.accounts());
        }
    }

    fn end(
        self,
        options: &Options,
        children: &Children,
        signals: &mut Signals,
    ) -> Result<Report, RecordError> {
        let method = Method::Perf;
        Report::conclude(options, self.sink, self.kinds, method, children, signals, self.notes)
    }
}
