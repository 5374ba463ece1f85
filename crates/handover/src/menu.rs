//! What is offered where no settings say it: a few things to run, and a mode and a backend to run them with. The screen and the keys are the
//! loader's.

use crate::medium::Machine;
use alloc::format;
use alloc::string::String;

/// What can be run: the key, what it is called, and the kernel's words for it.
const RUNS: [(char, &str, &str); 4] = [
    ('1', "attack: every attack, and what came of it", "attack"),
    ('2', "tests: the kernel's own tests", "tests"),
    ('3', "soak: a minute of random work on all CPUs, under attack", "soak=60"),
    ('4', "bench: every row of the evaluation that the memory is enough for, timed", "bench=all"),
];
/// Modes, the default first; the empty one is the kernel's choice.
const MODES: [&str; 6] = ["", "off", "unbatched", "batched", "fused-lean", "fused"];

/// The menu, with what has been chosen so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Menu {
    machine: Machine,
    run: usize,
    mode: usize,
    /// 0 is the kernel's choice, the others are the machine's backends.
    backend: usize,
}

/// What a key asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// To be shown what is chosen now.
    Again,
    /// To start the kernel with this command line.
    Start(String),
    /// To go back to the firmware.
    Leave,
    /// Nothing that is offered.
    Nothing,
}

impl Menu {
    /// With its defaults.
    pub fn new(machine: Machine) -> Self {
        Self { machine, run: 0, mode: 0, backend: 0 }
    }

    /// The lines to be shown.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        let runs = RUNS.iter().map(|(key, about, _)| format!("  {key}  {about}"));
        let best = |name: &'static str| if name.is_empty() { "the best" } else { name };
        let chosen = [
            format!("  m  mode: {}", best(MODES[self.mode])),
            format!("  b  backend: {}", best(self.backend())),
            "  q  back to the firmware".into(),
        ];
        runs.chain(chosen)
    }

    /// What a key asks for. Modes and backends go round.
    pub fn press(&mut self, key: char) -> Asked {
        match key.to_ascii_lowercase() {
            'm' => self.mode = (self.mode + 1) % MODES.len(),
            'b' => self.backend = (self.backend + 1) % (self.machine.backends().len() + 1),
            'q' => return Asked::Leave,
            '\r' | '\n' => return Asked::Start(self.command_line()),
            key => {
                let Some(run) = RUNS.iter().position(|run| run.0 == key) else {
                    return Asked::Nothing;
                };
                self.run = run;
                return Asked::Start(self.command_line());
            }
        }
        Asked::Again
    }

    /// What is chosen now.
    pub fn command_line(&self) -> String {
        let mut line = String::from(RUNS[self.run].2);
        for (name, value) in [("mode", MODES[self.mode]), ("backend", self.backend())] {
            if !value.is_empty() {
                line += &format!(" {name}={value}");
            }
        }
        line
    }

    fn backend(&self) -> &'static str {
        match self.backend {
            0 => "",
            number => self.machine.backends()[number - 1],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_choose_and_start() {
        let mut menu = Menu::new(Machine::Aarch64);
        assert_eq!(menu.press('x'), Asked::Nothing);
        assert_eq!(menu.command_line(), "attack");
        for _ in 0..3 {
            assert_eq!(menu.press('M'), Asked::Again);
        }
        menu.press('b');
        menu.press('b');
        assert_eq!(menu.press('2'), Asked::Start("tests mode=batched backend=pan".into()));
        assert_eq!(menu.press('\r'), Asked::Start("tests mode=batched backend=pan".into()));
        assert_eq!(menu.press('q'), Asked::Leave);
    }

    #[test]
    fn choices_go_round() {
        let mut menu = Menu::new(Machine::X86_64);
        let first = menu.clone();
        MODES.iter().for_each(|_| _ = menu.press('m'));
        (0..5).for_each(|_| _ = menu.press('b'));
        assert_eq!(menu, first);
        assert!(menu.lines().any(|line| line == "  b  backend: the best"));
    }
}
