//! Running an emulator: its lines as they come, its end, and never longer than allowed.

use crate::{Error, Kernel, LastLines, Machine, accel};
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

/// How the kernel says it ended, by the emulator's exit status: the same number on every target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Everything asked for was done and held.
    Success,
    /// A test or a gate failed.
    Failed,
    /// The kernel panicked.
    Panicked,
    /// The kernel did not start, and said why.
    Refused,
}

impl Outcome {
    fn from_status(status: ExitStatus) -> Option<Self> {
        match status.code()? {
            33 => Some(Self::Success),
            35 => Some(Self::Failed),
            37 => Some(Self::Panicked),
            39 => Some(Self::Refused),
            _ => None,
        }
    }
}

/// A line the kernel printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// One JSON object.
    Record(&'a str),
    /// For people.
    Log(&'a str),
}

impl<'a> Line<'a> {
    fn new(line: &'a str) -> Self {
        if line.starts_with('{') { Self::Record(line) } else { Self::Log(line) }
    }
}

/// A run that came to its end.
#[derive(Clone, Debug)]
pub struct Run {
    /// How the kernel ended.
    pub outcome: Outcome,
    /// From the emulator's start to its end.
    pub duration: Duration,
    /// What was printed last, for a message if the outcome is not the one hoped for.
    pub last: LastLines,
}

/// Lines kept for a report.
const KEPT_LINES: usize = 20;
/// Between looks at an emulator that has closed its pipes, so is about to end.
const POLL: Duration = Duration::from_millis(5);
/// After the emulator's end or death its pipes close at once; this is only a backstop.
const DRAIN_LIMIT: Duration = Duration::from_secs(1);

impl Kernel {
    /// The emulator as [`run`](Self::run) starts it, for whoever wants more of it, such as a debugger's port: standard input closed, the
    /// serial line on standard output, the emulator's own messages on standard error. Of the machine the time limit is the caller's to keep.
    ///
    /// # Errors
    ///
    /// [`Error::EmulatorMissing`].
    pub fn command(&self, machine: &Machine) -> Result<Command, Error> {
        let mut command = Command::new(self.target().find_emulator()?);
        command.args(self.target().arguments(self.image(), machine));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(command)
    }

    /// Runs the kernel and hands each line it prints to `on_line` as soon as it is complete.
    ///
    /// # Errors
    ///
    /// [`Error::EmulatorMissing`]; [`Error::Io`] when it does not start; [`Error::TimeLimit`]
    /// and [`Error::Died`], with what was printed last.
    pub fn run(&self, machine: &Machine, on_line: &mut dyn FnMut(Line<'_>)) -> Result<Run, Error> {
        let mut command = self.command(machine)?;
        let program = PathBuf::from(command.get_program());
        let start = Instant::now();
        let child =
            command.spawn().map_err(|source| Error::Io { program: program.clone(), source })?;
        let mut all = |line: Line<'_>| {
            on_line(line);
            ControlFlow::Continue(())
        };
        Watch::new(child, program, &mut all).until_end(start, machine.time_limit)
    }
}

impl Kernel {
    /// Runs the kernel with the caller's own terminal as its serial line, for as long as it takes. `time_limit` does not hold.
    ///
    /// # Errors
    ///
    /// As [`Kernel::run`]; nothing is known of the lines printed.
    pub fn run_attached(&self, machine: &Machine) -> Result<Outcome, Error> {
        let program = self.target().find_emulator()?;
        let arguments = self.target().arguments(self.image(), machine);
        let status = Command::new(&program)
            .args(arguments)
            .status()
            .map_err(|source| Error::Io { program, source })?;
        Outcome::from_status(status).ok_or(Error::Died {
            status,
            last: LastLines { serial: Vec::new(), emulator: Vec::new() },
        })
    }
}

/// What an emulator's pipes deliver.
enum Printed {
    Serial(String),
    Emulator(String),
}

/// A running emulator; dropping it kills the emulator.
pub(crate) struct Watch<'a> {
    child: Child,
    program: PathBuf,
    printed: Receiver<Printed>,
    /// Says whether there is enough of them.
    on_line: &'a mut dyn FnMut(Line<'_>) -> ControlFlow<()>,
    serial: VecDeque<String>,
    emulator: VecDeque<String>,
}

impl<'a> Watch<'a> {
    pub(crate) fn new(
        mut child: Child,
        program: PathBuf,
        on_line: &'a mut dyn FnMut(Line<'_>) -> ControlFlow<()>,
    ) -> Self {
        let (sender, printed) = channel();
        if let Some(pipe) = child.stdout.take() {
            send_lines(pipe, sender.clone(), Printed::Serial);
        }
        if let Some(pipe) = child.stderr.take() {
            send_lines(pipe, sender, Printed::Emulator);
        }
        let (serial, emulator) = (VecDeque::new(), VecDeque::new());
        Self { child, program, printed, on_line, serial, emulator }
    }

    /// Until there are lines enough, or the emulator ends by itself, however: how long that took.
    pub(crate) fn until_enough(
        mut self,
        start: Instant,
        limit: Duration,
    ) -> Result<Duration, Error> {
        let deadline = start + limit;
        if self.take_lines_until(deadline).is_break() || self.wait_until(deadline)?.is_some() {
            return Ok(start.elapsed());
        }
        Err(Error::TimeLimit { limit, last: self.last_lines() })
    }

    fn until_end(mut self, start: Instant, limit: Duration) -> Result<Run, Error> {
        let deadline = start + limit;
        let _ = self.take_lines_until(deadline);
        if self.has_given_up() {
            self.kill();
            let _ = self.take_lines_until(Instant::now() + DRAIN_LIMIT);
            return Err(Error::Emulates { last: self.last_lines() });
        }
        let Some(status) = self.wait_until(deadline)? else {
            self.kill();
            let _ = self.take_lines_until(Instant::now() + DRAIN_LIMIT);
            return Err(Error::TimeLimit { limit, last: self.last_lines() });
        };
        let (duration, last) = (start.elapsed(), self.last_lines());
        match Outcome::from_status(status) {
            Some(outcome) => Ok(Run { outcome, duration, last }),
            None => Err(Error::Died { status, last }),
        }
    }

    /// Takes lines until there are enough, which breaks, until the emulator closes its pipes, or until `deadline`.
    fn take_lines_until(&mut self, deadline: Instant) -> ControlFlow<()> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return ControlFlow::Continue(());
            }
            match self.printed.recv_timeout(left) {
                Ok(Printed::Serial(line)) => {
                    let enough = (self.on_line)(Line::new(&line));
                    keep(&mut self.serial, line);
                    enough?;
                }
                Ok(Printed::Emulator(line)) => {
                    keep(&mut self.emulator, line);
                    if self.has_given_up() {
                        return ControlFlow::Continue(());
                    }
                }
                Err(RecvTimeoutError::Disconnected | RecvTimeoutError::Timeout) => {
                    return ControlFlow::Continue(());
                }
            }
        }
    }

    /// The emulator's status, once it has ended; `None` if it has not by `deadline`.
    fn wait_until(&mut self, deadline: Instant) -> Result<Option<ExitStatus>, Error> {
        loop {
            match self.child.try_wait() {
                Ok(None) if Instant::now() < deadline => thread::sleep(POLL),
                Ok(status) => return Ok(status),
                Err(source) => return Err(Error::Io { program: self.program.clone(), source }),
            }
        }
    }

    /// Whether the emulator waits for ever, since KVM gave up.
    fn has_given_up(&self) -> bool {
        self.emulator.iter().any(|line| line.starts_with(accel::GIVEN_UP))
    }

    fn last_lines(&self) -> LastLines {
        let [serial, emulator] =
            [&self.serial, &self.emulator].map(|lines| lines.iter().cloned().collect());
        LastLines { serial, emulator }
    }

    /// Ends the emulator; fails only if it has ended already, which is as good.
    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        self.kill();
    }
}

fn keep(lines: &mut VecDeque<String>, line: String) {
    if lines.len() == KEPT_LINES {
        lines.pop_front();
    }
    lines.push_back(line);
}

/// Sends each line of `pipe`, the unfinished last one too, until it closes. Bytes that are not
/// UTF-8 are replaced: a crashing kernel may print anything.
fn send_lines<P: Read + Send + 'static>(pipe: P, to: Sender<Printed>, wrap: fn(String) -> Printed) {
    thread::spawn(move || {
        let mut reader = BufReader::new(pipe);
        let mut line = Vec::new();
        while matches!(reader.read_until(b'\n', &mut line), Ok(read) if read > 0) {
            let text = String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned();
            if to.send(wrap(text)).is_err() {
                return;
            }
            line.clear();
        }
    });
}
