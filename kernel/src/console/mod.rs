//! The console: log lines for people and JSON records for programs, on one serial line, and on the [`screen`] where there is one.
//!
//! A record is one line that starts with `{`; every other line is for people. Each line
//! is written in one go under one lock, so lines of different CPUs never mix. The lock
//! is taken with interrupts off; code that runs in an NMI must not log, since the NMI may
//! have interrupted the holder. A panic takes the console by force.

pub mod frame_buffer;
pub mod screen;

use crate::{arch, lock::IrqLock};
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering};

static CONSOLE: IrqLock<Console> = IrqLock::new(Console { serial: None, screen: None });
static PANICKING: AtomicBool = AtomicBool::new(false);

/// Opens the serial line and makes it the target of the `log` macros.
///
/// # Safety
///
/// Must be called once, before any other CPU runs.
pub unsafe fn init() {
    // SAFETY: the caller calls this once; the port lives in `CONSOLE` from here on.
    CONSOLE.lock().serial = unsafe { arch::serial::Serial::new() };
    if log::set_logger(&Logger).is_ok() {
        log::set_max_level(log::LevelFilter::Info);
    }
}

/// Opens the screen too, if there is one: what is said from now on is drawn.
///
/// # Safety
///
/// Must be called once, on tables that map the screen, as all later ones must.
pub unsafe fn open_screen() {
    // SAFETY: forwarded; the screen lives in `CONSOLE` from here on.
    CONSOLE.lock().screen = unsafe { screen::Screen::new() };
}

/// Writes one line as it is.
pub fn write_line(line: fmt::Arguments<'_>) {
    let mut console = if PANICKING.load(Ordering::Relaxed) {
        // SAFETY: the panicking CPU ends the machine after its message; a holder that
        // goes on meanwhile can at worst mix its bytes into ours.
        unsafe { CONSOLE.lock_by_force() }
    } else {
        CONSOLE.lock()
    };
    let _ = console.write_fmt(format_args!("{line}\n"));
}

/// Writes bytes as they are, but for a carriage return before each newline if `maps_newline`.
pub fn write_bytes(bytes: &[u8], maps_newline: bool) {
    let mut console = CONSOLE.lock();
    if !maps_newline {
        return console.write(bytes);
    }
    for line in bytes.split_inclusive(|&byte| byte == b'\n') {
        match line.strip_suffix(b"\n") {
            Some(text) => {
                console.write(text);
                console.write(b"\r\n");
            }
            None => console.write(line),
        }
    }
}

/// A byte that has come in, if one has.
pub fn read_byte() -> Option<u8> {
    CONSOLE.lock().serial.as_mut()?.read()
}

/// From now on the console is taken even if its lock is held.
pub fn take_over_for_panic() {
    PANICKING.store(true, Ordering::Relaxed);
}

/// What lines are written to.
struct Console {
    serial: Option<arch::serial::Serial>,
    screen: Option<screen::Screen>,
}

impl Console {
    fn write(&mut self, bytes: &[u8]) {
        if let Some(serial) = &mut self.serial {
            serial.write(bytes);
        }
        if let Some(screen) = &mut self.screen {
            screen.write(bytes);
        }
    }
}

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.write(text.as_bytes());
        Ok(())
    }
}

struct Logger;

impl log::Log for Logger {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let millis = arch::time::since_boot().as_millis();
        let (seconds, millis) = (millis / 1000, millis % 1000);
        let level = match record.level() {
            log::Level::Error => "error: ",
            log::Level::Warn => "warning: ",
            _ => "",
        };
        write_line(format_args!("[{seconds:5}.{millis:03}] {level}{}", record.args()));
    }

    fn flush(&self) {}
}
