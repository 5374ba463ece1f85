//! The terminal on the serial line.
//!
//! The timer's tick takes what was typed from the device: there is no interrupt for it, and 250 looks a second are more than people
//! and pipes need. A key that makes a signal makes it then, whatever the program does. Lines are put together when they are read.

use crate::console;
use crate::lock::IrqLock;
use crate::program::errno::{Errno, Outcome};
use crate::program::{process, signals};
use crate::sched::events;
use alloc::collections::VecDeque;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use linux_raw_sys::general::{
    ECHO, ECHOE, ECHOK, ICANON, ICRNL, IEXTEN, ISIG, IXON, ONLCR, OPOST, SIGINT, SIGQUIT,
};

/// Bytes that are kept until somebody reads them. More are lost.
const CAPACITY: usize = 4096;
/// Bytes of `termios`.
pub const SETTINGS: usize = 36;

/// Keys, as every terminal has them at first.
mod key {
    pub const INTERRUPT: u8 = 0x03;
    pub const END_OF_FILE: u8 = 0x04;
    pub const ERASE: u8 = 0x7f;
    pub const BACKSPACE: u8 = 0x08;
    pub const KILL_LINE: u8 = 0x15;
    pub const QUIT: u8 = 0x1c;
}

/// Settings that decide how input and output are treated; the rest is only kept.
#[derive(Clone, Copy)]
struct Settings {
    input: u32,
    output: u32,
    control: u32,
    local: u32,
    rest: [u8; 20],
}

struct Terminal {
    typed: VecDeque<u8>,
    /// A line that is complete, or bytes without lines.
    ready: VecDeque<u8>,
    /// The line that is being typed.
    line: VecDeque<u8>,
    /// How often the end of the file was typed and not read.
    ends: usize,
    settings: Settings,
}

static TERMINAL: IrqLock<Terminal> = IrqLock::new(Terminal {
    typed: VecDeque::new(),
    ready: VecDeque::new(),
    line: VecDeque::new(),
    ends: 0,
    settings: Settings {
        input: ICRNL | IXON,
        output: 0,
        control: 0xbf,
        local: ISIG | ICANON | IEXTEN | ECHOE | ECHOK,
        rest: [
            0,
            key::INTERRUPT,
            key::QUIT,
            key::ERASE,
            key::KILL_LINE,
            key::END_OF_FILE,
            0,
            1,
            0,
            0x11,
            0x13,
            0x1a,
            0,
            0x12,
            0x0f,
            0x17,
            0x16,
            0,
            0,
            0,
        ],
    },
});
static IN_USE: AtomicBool = AtomicBool::new(false);
/// The process group that keys make signals for.
static FOREGROUND: AtomicU32 = AtomicU32::new(1);

/// Takes the serial line's input from now on. With a person at the other end, what is typed is shown, and lines end as terminals want.
pub fn open(interactive: bool) {
    if interactive {
        let mut terminal = TERMINAL.lock();
        terminal.settings.local |= ECHO;
        terminal.settings.output = OPOST | ONLCR;
    }
    IN_USE.store(true, Ordering::Release);
}

/// The timer's tick, on any CPU.
pub fn tick() {
    if !IN_USE.load(Ordering::Acquire) {
        return;
    }
    let mut any = false;
    while let Some(byte) = console::read_byte() {
        any = true;
        type_byte(byte);
    }
    if any {
        events::announce();
    }
}

fn type_byte(byte: u8) {
    let mut terminal = TERMINAL.lock();
    let signal = match byte {
        key::INTERRUPT => Some(SIGINT),
        key::QUIT => Some(SIGQUIT),
        _ => None,
    };
    if let Some(signal) = signal.filter(|_| terminal.settings.local & ISIG != 0) {
        terminal.line.clear();
        terminal.typed.clear();
        drop(terminal);
        if let Some(signal) = signals::Signal::new(signal.into()) {
            process::signal_group(FOREGROUND.load(Ordering::Relaxed), signal);
        }
    } else if terminal.typed.len() + terminal.ready.len() < CAPACITY {
        terminal.typed.push_back(byte);
        terminal.take_typed();
    }
}

impl Terminal {
    /// What was typed becomes lines, or bytes to read.
    fn take_typed(&mut self) {
        while let Some(byte) = self.typed.pop_front() {
            let byte = if byte == b'\r' && self.settings.input & ICRNL != 0 { b'\n' } else { byte };
            if self.settings.local & ICANON == 0 {
                self.echo(byte);
                self.ready.push_back(byte);
                continue;
            }
            match byte {
                key::ERASE | key::BACKSPACE => {
                    if self.line.pop_back().is_some() && self.settings.local & ECHO != 0 {
                        self.show(b"\x08 \x08");
                    }
                }
                key::KILL_LINE => self.line.clear(),
                key::END_OF_FILE => {
                    self.ends += usize::from(self.line.is_empty());
                    self.ready.append(&mut self.line);
                }
                _ => {
                    self.echo(byte);
                    self.line.push_back(byte);
                    if byte == b'\n' {
                        self.ready.append(&mut self.line);
                    }
                }
            }
        }
    }

    fn echo(&self, byte: u8) {
        if self.settings.local & ECHO != 0 {
            self.show(&[byte]);
        }
    }

    fn show(&self, bytes: &[u8]) {
        let maps_newline = self.settings.output & (OPOST | ONLCR) == OPOST | ONLCR;
        console::write_bytes(bytes, maps_newline);
    }
}

/// Whether a read would not wait.
pub fn has_input() -> bool {
    let terminal = TERMINAL.lock();
    !terminal.ready.is_empty() || terminal.ends > 0
}

/// Reads a line, or what there is without lines.
///
/// # Errors
///
/// [`Errno::EAGAIN`] if there is nothing yet.
pub fn read(to: &mut [u8]) -> Outcome<usize> {
    let mut terminal = TERMINAL.lock();
    if terminal.ready.is_empty() {
        if terminal.ends == 0 {
            return Err(Errno::EAGAIN);
        }
        terminal.ends -= 1;
        return Ok(0);
    }
    let by_line = terminal.settings.local & ICANON != 0;
    let mut len = 0;
    while len < to.len() {
        let Some(byte) = terminal.ready.pop_front() else { break };
        to[len] = byte;
        len += 1;
        if by_line && byte == b'\n' {
            break;
        }
    }
    Ok(len)
}

/// Writes.
pub fn write(bytes: &[u8]) {
    const PIECE: usize = 256;
    let output = TERMINAL.lock().settings.output;
    // In pieces: the console is locked with interrupts off.
    for piece in bytes.chunks(PIECE) {
        console::write_bytes(piece, output & (OPOST | ONLCR) == OPOST | ONLCR);
    }
}

/// The settings, as `termios` has them.
pub fn settings() -> [u8; SETTINGS] {
    let settings = TERMINAL.lock().settings;
    let mut bytes = [0; SETTINGS];
    let words = [settings.input, settings.output, settings.control, settings.local];
    for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    bytes[16..].copy_from_slice(&settings.rest);
    bytes
}

/// Changes the settings.
pub fn set_settings(bytes: &[u8; SETTINGS]) {
    let word =
        |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let mut rest = [0; 20];
    rest.copy_from_slice(&bytes[16..]);
    let mut terminal = TERMINAL.lock();
    terminal.settings =
        Settings { input: word(0), output: word(4), control: word(8), local: word(12), rest };
    if terminal.settings.local & ICANON == 0 {
        let line = core::mem::take(&mut terminal.line);
        terminal.ready.extend(line);
    }
}

/// The process group in the foreground.
pub fn foreground() -> u32 {
    FOREGROUND.load(Ordering::Relaxed)
}

/// Puts a process group in the foreground.
pub fn set_foreground(group: u32) {
    FOREGROUND.store(group, Ordering::Relaxed);
}
