//! The kernel's command line: words separated by spaces.
//!
//! | word | does |
//! |---|---|
//! | `tests` | runs every in-kernel test |
//! | `tests=TEXT` | runs the tests whose name contains TEXT |
//! | `attack` | makes every attack |
//! | `soak=SECONDS` | random processes and kernel mappings on all CPUs, under attack |
//! | `operations=N` | the same until each CPU's worker has done so many operations, however long that takes |
//! | `seed=N` | the soak's seed; 1 if not given |
//! | `bench=ROWS` | times benchmarks: their numbers in `kpkeys_workloads::ALL_ROWS`, separated by commas, or `all` |
//! | `count=ROWS` | counts their events instead |
//! | `scale=N` | divides the published number of loops by N; 1000 if not given |
//! | `iterations=N` | times each benchmark N times; 3 if not given |
//! | `replay=N` | replays steps of a recorded program, which came in place of the initramfs, N times |
//! | `backend=NAME` | one of `arch::backend::Choice`: selects the backend; the best the CPU has if not given |
//! | `mode=off\|unbatched\|batched\|fused-lean\|fused` | selects the protection mode; `fused` if not given, `off` without backend |
//! | `keys=one\|separate` | gives the tables of address spaces a key of their own, in mode `fused` with a backend that has keys to spare; `one` if not given |
//! | `violations=enforce\|audit` | refuses what does not fit the types of frames, in mode `fused`, or stores and reports it; `enforce` if not given |
//! | `later=MIB` | leaves so much memory out at first, and adds it once protection is on |
//! | `interactive` | a person is at the serial line: what is typed for the command is shown |
//! | `screen=ADDRESS,WIDTH,HEIGHT,STRIDE` | a frame buffer of 32-bit pixels, on which what is said is drawn too |
//! | `label=TEXT` | says TEXT in the record of the boot |
//! | `restart` | restarts the machine in the end, where no emulator ends it |
//! | `attacked` | beside the command, a thread of the kernel stores to page tables |
//! | `-- COMMAND...` | runs a command from the initramfs; its words may be quoted as in a shell |
//! | `crash=panic` | panics, to show how that is reported |
//! | `crash=stack-overflow` | overflows a thread's stack, likewise |
//! | `crash=panic-in-window`, `stack-overflow-in-window`, `fault-in-window`, `error-in-window` | ends in an open window, to show that it is closed |
//! | `crash=hang` | never ends, to show that the emulator's time limit holds |
//!
//! Unknown words stop the boot, all of them listed: a misspelt word must not look like a run
//! with the meant one.

use crate::arch::backend::Choice;
use crate::console::frame_buffer::FrameBuffer;
use crate::evidence::bench::Request;
use crate::program::command::Command;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;
use kpkeys_pgtable::guarded::Violations;
use kpkeys_pgtable::{Keys, Mode};
use kpkeys_workloads::ALL_ROWS;

/// What the command line asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Run the tests whose name contains this.
    pub tests: Option<String>,
    /// Make every attack.
    pub attack: bool,
    /// Soak until this.
    pub soak: Option<Until>,
    /// The soak's seed.
    pub seed: Option<u64>,
    /// Run benchmarks.
    pub bench: Option<Request>,
    /// Replay a recorded program so many times.
    pub replay: Option<u32>,
    /// The backend.
    pub backend: Option<Choice>,
    /// The protection mode.
    pub mode: Option<Mode>,
    /// Which keys page tables carry.
    pub keys: Keys,
    /// What becomes of what does not fit the types of frames.
    pub violations: Violations,
    /// How many MiB of memory are added once protection is on.
    pub later: u64,
    /// What the record of the boot says.
    pub label: Option<String>,
    /// Restart the machine in the end.
    pub restart: bool,
    /// With an attacker beside the command.
    pub attacked: bool,
    /// Run a command.
    pub command: Option<Command>,
    /// End badly on purpose.
    pub crash: Option<Crash>,
}

/// What ends a soak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// So much time has passed.
    Time(Duration),
    /// Each worker has done so many operations.
    Operations(u64),
}

/// A way out of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// A panic of the code in it.
    Panic,
    /// The stack runs out: a double fault on x86-64.
    StackOverflow,
    /// The code in it reads what is not mapped.
    Fault,
    /// A machine check (x86-64) or SError (arm64) that nobody asked for.
    Error,
}

/// Ways to end badly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// A panic.
    Panic,
    /// A thread's stack overflow.
    StackOverflow,
    /// A loop without end.
    Hang,
    /// In an open window.
    InWindow(Way),
}

impl Options {
    /// `None` for a word that means nothing.
    fn set_flag(&mut self, word: &str) -> Option<()> {
        match word {
            "tests" => self.tests = Some(String::new()),
            "attack" => self.attack = true,
            "attacked" => self.attacked = true,
            "restart" => self.restart = true,
            _ => return None,
        }
        Some(())
    }

    /// `None` for a word that means nothing.
    fn set(&mut self, name: &str, value: &str) -> Option<()> {
        match (name, value) {
            ("tests", part) => self.tests = Some(part.to_string()),
            ("soak", seconds) => {
                self.soak = Some(Until::Time(Duration::from_secs(seconds.parse().ok()?)));
            }
            ("operations", number) => self.soak = Some(Until::Operations(number.parse().ok()?)),
            ("replay", times) => self.replay = Some(times.parse().ok()?),
            ("seed", seed) => self.seed = Some(seed.parse().ok()?),
            ("backend", name) => self.backend = Some(Choice::from_name(name)?),
            ("mode", name) => self.mode = Some(Mode::from_name(name)?),
            ("keys", name) => self.keys = Keys::from_name(name)?,
            ("violations", "enforce") => self.violations = Violations::Enforce,
            ("violations", "audit") => self.violations = Violations::Audit,
            ("later", mib) => self.later = mib.parse().ok()?,
            ("label", text) => self.label = Some(text.to_string()),
            // The boot code has looked for it before there was a heap.
            ("screen", value) => _ = FrameBuffer::parse(value)?,
            ("crash", "panic") => self.crash = Some(Crash::Panic),
            ("crash", "stack-overflow") => self.crash = Some(Crash::StackOverflow),
            ("crash", "hang") => self.crash = Some(Crash::Hang),
            ("crash", how) => {
                self.crash = Some(Crash::InWindow(way(how.strip_suffix("-in-window")?)?))
            }
            _ => return None,
        }
        Some(())
    }

    /// The backend to use: the one asked for, or the best.
    pub fn backend(&self) -> Choice {
        self.backend.unwrap_or_else(Choice::best)
    }

    /// The mode to use: the one asked for, or the best that the backend gives a meaning to.
    pub fn mode(&self) -> Mode {
        let best = if self.backend() == Choice::None { Mode::Off } else { Mode::Fused };
        self.mode.unwrap_or(best)
    }
}

/// Words that mean nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownWords(Vec<String>);

impl fmt::Display for UnknownWords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("unknown words on the command line:")?;
        for word in &self.0 {
            write!(f, " `{word}`")?;
        }
        f.write_str("; known are tests, tests=TEXT, attack, soak=SECONDS, operations=N, seed=N, bench=ROWS, count=ROWS, scale=N, iterations=N, replay=N, backend=")?;
        for (place, choice) in Choice::ALL.iter().enumerate() {
            write!(f, "{}{}", if place == 0 { "" } else { "|" }, choice.name())?;
        }
        f.write_str(
            ", mode=off|unbatched|batched|fused-lean|fused, keys=one|separate, violations=enforce|audit, crash=panic|stack-overflow|hang, crash=panic-in-window|stack-overflow-in-window|fault-in-window|error-in-window, interactive, screen=ADDRESS,WIDTH,HEIGHT,STRIDE, later=MIB, label=TEXT, restart, attacked, and -- COMMAND...",
        )
    }
}

/// Reads the command line.
///
/// # Errors
///
/// [`UnknownWords`] lists every word that means nothing.
pub fn parse(line: &str) -> Result<Options, UnknownWords> {
    let mut options = Options::default();
    let mut bench = Request { rows: Vec::new(), scale: 1000, iterations: 3, count: false };
    let mut unknown = Vec::new();
    let (line, command) = match line.split_once("-- ") {
        Some((words, command)) if words.is_empty() || words.ends_with(' ') => {
            (words, Some(command))
        }
        _ => (line, None),
    };
    let mut interactive = false;
    for word in line.split_whitespace() {
        if word == "interactive" {
            interactive = true;
            continue;
        }
        let known = match word.split_once('=') {
            Some((name, value)) => {
                options.set(name, value).or_else(|| set_bench(&mut bench, name, value))
            }
            None => options.set_flag(word),
        };
        if known.is_none() {
            unknown.push(word.to_string());
        }
    }
    if let Some(command) = command {
        match shlex::split(command) {
            Some(words) => options.command = Some(Command { words, interactive }),
            None => unknown.push("a quotation without end in the command behind `--`".to_string()),
        }
    }
    if !bench.rows.is_empty() {
        options.bench = Some(bench);
    }
    if unknown.is_empty() { Ok(options) } else { Err(UnknownWords(unknown)) }
}

/// `None` for a word that means nothing.
fn set_bench(bench: &mut Request, name: &str, value: &str) -> Option<()> {
    match name {
        "bench" | "count" => {
            bench.count = name == "count";
            bench.rows = match value {
                "all" => (0..ALL_ROWS.len()).collect(),
                rows => rows.split(',').map(row).collect::<Option<_>>()?,
            };
        }
        "scale" => bench.scale = value.parse().ok().filter(|&scale| scale > 0)?,
        "iterations" => bench.iterations = value.parse().ok()?,
        _ => return None,
    }
    Some(())
}

fn way(name: &str) -> Option<Way> {
    Some(match name {
        "panic" => Way::Panic,
        "stack-overflow" => Way::StackOverflow,
        "fault" => Way::Fault,
        "error" => Way::Error,
        _ => return None,
    })
}

fn row(number: &str) -> Option<usize> {
    number.parse().ok().filter(|&row| row < ALL_ROWS.len())
}
