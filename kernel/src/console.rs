//! The console: log lines for people and JSON records for programs, on one serial line.
//!
//! A record is one line that starts with `{`; every other line is for people. Each line
//! is written in one go under one lock, so lines of different CPUs never mix. The lock
//! is taken with interrupts off; code that runs in an NMI must not log, since the NMI may
//! have interrupted the holder. A panic takes the console by force.

use crate::{arch, lock::IrqLock};
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering};

static CONSOLE: IrqLock<Option<arch::serial::Serial>> = IrqLock::new(None);
static PANICKING: AtomicBool = AtomicBool::new(false);

/// Opens the serial line and makes it the target of the `log` macros.
///
/// # Safety
///
/// Must be called once, before any other CPU runs.
pub unsafe fn init() {
    // SAFETY: the caller calls this once; the port lives in `CONSOLE` from here on.
    *CONSOLE.lock() = unsafe { arch::serial::Serial::new() };
    if log::set_logger(&Logger).is_ok() {
        log::set_max_level(log::LevelFilter::Info);
    }
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
    if let Some(serial) = console.as_mut() {
        let _ = Serial(serial).write_fmt(format_args!("{line}\n"));
    }
}

/// Writes bytes as they are, but for a carriage return before each newline if `maps_newline`.
pub fn write_bytes(bytes: &[u8], maps_newline: bool) {
    let mut console = CONSOLE.lock();
    let Some(serial) = console.as_mut() else { return };
    if !maps_newline {
        return serial.write(bytes);
    }
    for line in bytes.split_inclusive(|&byte| byte == b'\n') {
        match line.strip_suffix(b"\n") {
            Some(text) => {
                serial.write(text);
                serial.write(b"\r\n");
            }
            None => serial.write(line),
        }
    }
}

/// A byte that has come in, if one has.
pub fn read_byte() -> Option<u8> {
    CONSOLE.lock().as_mut()?.read()
}

/// From now on the console is taken even if its lock is held.
pub fn take_over_for_panic() {
    PANICKING.store(true, Ordering::Relaxed);
}

struct Serial<'a>(&'a mut arch::serial::Serial);

impl Write for Serial<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write(text.as_bytes());
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
