//! `kpkeys.txt`: the command lines that the kernel is started with.
//!
//! Each line is one start; the kernel restarts the machine between them. Empty lines and lines that begin with `#` say nothing. A line that
//! begins with the name of a kind of machine and a colon is for machines of that kind alone. `ask` alone shows the menu.

use crate::medium::Machine;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// The line that asks for the menu.
const ASK: &str = "ask";
/// The word that has the kernel restart the machine in the end.
const RESTART: &str = "restart";

/// What the settings ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settings {
    /// The menu: there are no lines for this machine, or they say so.
    Ask,
    /// These command lines, one a start.
    Lines(Vec<String>),
}

/// What is to be started now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// The kernel, with this command line.
    Kernel {
        /// The command line.
        command_line: String,
        /// Which of how many lines it is, from 1, where there is more than one.
        place: Option<(usize, usize)>,
    },
    /// The menu.
    Menu {
        /// How many lines have been started, if that is why.
        all_done: Option<usize>,
    },
}

impl Settings {
    /// Reads the text.
    pub fn parse(text: &str, machine: Machine) -> Self {
        let lines: Vec<String> = text
            .trim_start_matches('\u{feff}')
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .filter_map(|line| for_machine(line, machine))
            .map(ToString::to_string)
            .collect();
        match lines.as_slice() {
            [] => Self::Ask,
            [only] if only == ASK => Self::Ask,
            _ => Self::Lines(lines),
        }
    }

    /// What is to be started when `started` lines have been.
    pub fn start(&self, started: usize) -> Start {
        let Self::Lines(lines) = self else { return Start::Menu { all_done: None } };
        if let [only] = lines.as_slice() {
            return Start::Kernel { command_line: only.clone(), place: None };
        }
        let Some(line) = lines.get(started) else {
            return Start::Menu { all_done: Some(lines.len()) };
        };
        let place = Some((started + 1, lines.len()));
        Start::Kernel { command_line: restarting(line, started + 1 < lines.len()), place }
    }
}

/// The words before a command are the kernel's, those behind it are not.
fn restarting(line: &str, restarts: bool) -> String {
    match restarts {
        true => alloc::format!("{RESTART} {line}"),
        false => line.to_string(),
    }
}

/// What a line says to this machine, if anything.
fn for_machine(line: &str, machine: Machine) -> Option<&str> {
    for kind in Machine::ALL {
        if let Some(rest) = line.strip_prefix(kind.name()).and_then(|rest| rest.strip_prefix(':')) {
            return (kind == machine).then(|| rest.trim());
        }
    }
    Some(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn lines_are_for_the_machines_they_name() {
        let text = "\u{feff}# what is run\r\n\r\n  attack \r\nx86_64: tests backend=pks\naarch64:tests backend=pan\n";
        let lines = |machine| match Settings::parse(text, machine) {
            Settings::Lines(lines) => lines,
            Settings::Ask => vec![],
        };
        assert_eq!(lines(Machine::X86_64), ["attack", "tests backend=pks"]);
        assert_eq!(lines(Machine::Aarch64), ["attack", "tests backend=pan"]);
    }

    #[test]
    fn nothing_to_start_is_asked_for() {
        for text in ["", "# attack\n", "ask", "\n ask \n", "aarch64: attack"] {
            assert_eq!(Settings::parse(text, Machine::X86_64), Settings::Ask, "{text}");
        }
        assert_eq!(Settings::Ask.start(3), Start::Menu { all_done: None });
    }

    #[test]
    fn one_line_is_started_every_time() {
        let settings = Settings::parse("attack", Machine::X86_64);
        for started in [0, 7] {
            let expected = Start::Kernel { command_line: "attack".into(), place: None };
            assert_eq!(settings.start(started), expected);
        }
    }

    #[test]
    fn several_are_started_in_turn_and_restart_but_for_the_last() {
        let settings = Settings::parse("attack\nbench=1 -- ls\ntests", Machine::X86_64);
        let line = |started| match settings.start(started) {
            Start::Kernel { command_line, place } => Some((command_line, place)),
            Start::Menu { .. } => None,
        };
        assert_eq!(line(0), Some(("restart attack".into(), Some((1, 3)))));
        assert_eq!(line(1), Some(("restart bench=1 -- ls".into(), Some((2, 3)))));
        assert_eq!(line(2), Some(("tests".into(), Some((3, 3)))));
        assert_eq!(settings.start(3), Start::Menu { all_done: Some(3) });
    }
}
