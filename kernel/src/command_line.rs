//! The kernel's command line: words separated by spaces.
//!
//! | word | does |
//! |---|---|
//! | `tests` | runs every in-kernel test |
//! | `tests=TEXT` | runs the tests whose name contains TEXT |
//! | `attack` | makes every attack |
//! | `backend=pks\|mock\|none` | selects the backend; the best the CPU has if not given |
//! | `mode=off\|unbatched\|batched\|fused` | selects the protection mode; `fused` if not given, `off` without backend |
//! | `crash=panic` | panics, to show how that is reported |
//! | `crash=stack-overflow` | overflows a thread's stack, likewise |
//! | `crash=hang` | never ends, to show that the emulator's time limit holds |
//!
//! Unknown words stop the boot, all of them listed: a misspelt word must not look like a run
//! with the meant one.

use crate::arch::backend::Choice;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use kpkeys_pgtable::Mode;

/// What the command line asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Run the tests whose name contains this.
    pub tests: Option<String>,
    /// Make every attack.
    pub attack: bool,
    /// The backend.
    pub backend: Option<Choice>,
    /// The protection mode.
    pub mode: Option<Mode>,
    /// End badly on purpose.
    pub crash: Option<Crash>,
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
}

impl Options {
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
        f.write_str("; known are tests, tests=TEXT, attack, backend=pks|mock|none, mode=off|unbatched|batched|fused, crash=panic|stack-overflow|hang")
    }
}

/// Reads the command line.
///
/// # Errors
///
/// [`UnknownWords`] lists every word that means nothing.
pub fn parse(line: &str) -> Result<Options, UnknownWords> {
    let mut options = Options::default();
    let mut unknown = Vec::new();
    for word in line.split_whitespace() {
        match word.split_once('=') {
            None if word == "tests" => options.tests = Some(String::new()),
            None if word == "attack" => options.attack = true,
            Some(("tests", part)) => options.tests = Some(part.to_string()),
            Some(("backend", name)) if Choice::from_name(name).is_some() => {
                options.backend = Choice::from_name(name);
            }
            Some(("mode", name)) if Mode::from_name(name).is_some() => {
                options.mode = Mode::from_name(name);
            }
            Some(("crash", "panic")) => options.crash = Some(Crash::Panic),
            Some(("crash", "stack-overflow")) => options.crash = Some(Crash::StackOverflow),
            Some(("crash", "hang")) => options.crash = Some(Crash::Hang),
            _ => unknown.push(word.to_string()),
        }
    }
    if unknown.is_empty() { Ok(options) } else { Err(UnknownWords(unknown)) }
}
