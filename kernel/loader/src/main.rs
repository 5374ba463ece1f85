//! A UEFI application that starts the reference kernel: it reads settings and kernel from the medium that it was started from, leaves the
//! firmware, and enters the kernel as the boot protocol of its kind of machine says, PVH on x86-64 and Linux Image with a device tree on arm64.
//!
//! What cannot be started is said on the firmware's console, and the firmware gets the machine back after a key or [`console::PATIENCE`].

#![no_std]
#![no_main]

extern crate alloc;

mod arch;
mod console;
mod error;
mod files;
mod memory;
mod screen;

use alloc::string::String;
use alloc::vec::Vec;
use error::Error;
use kpkeys_handover::medium::{SETTINGS, STARTED};
use kpkeys_handover::settings::{Settings, Start};
use uefi::{Status, boot, entry, println};

use files::Medium;

#[entry]
fn main() -> Status {
    println!("kpkeys loader {}", env!("CARGO_PKG_VERSION"));
    // Without it the firmware restarts a machine whose user reads the menu for five minutes (UEFI 2.10, 7.5).
    let _ = boot::set_watchdog_timer(0, 0x1_0000, None);
    match run() {
        Ok(()) => Status::SUCCESS,
        Err(error) => {
            println!("kpkeys: {error}");
            console::wait_for_reader();
            Status::LOAD_ERROR
        }
    }
}

/// Starts the kernel; returns only if the user wants the firmware back.
fn run() -> Result<(), Error> {
    let mut medium = Medium::open()?;
    let Some(command_line) = command_line(&mut medium)? else { return Ok(()) };
    println!("starting the kernel: {command_line}");
    let kernel = medium.read(arch::MACHINE.kernel())?.ok_or(Error::NoKernel(arch::MACHINE))?;
    let words: Vec<String> = screen::word().into_iter().chain([command_line]).collect();
    match arch::start(&kernel, &words.join(" "))? {}
}

/// What the settings, or the user, say; `None` for back to the firmware.
fn command_line(medium: &mut Medium) -> Result<Option<String>, Error> {
    let text = medium.read(SETTINGS)?.unwrap_or_default();
    let settings = Settings::parse(&String::from_utf8_lossy(&text), arch::MACHINE);
    let started = medium.started()?;
    match settings.start(started) {
        Start::Kernel { command_line, place: None } => Ok(Some(command_line)),
        Start::Kernel { command_line, place: Some((line, of)) } => {
            println!("line {line} of {of} of {SETTINGS}");
            // Before the kernel is started: a line that cannot be run must not be run for ever.
            medium.set_started(line)?;
            Ok(Some(command_line))
        }
        Start::Menu { all_done: Some(lines) } => {
            println!(
                "all {lines} lines of {SETTINGS} were started; delete {STARTED} to begin anew"
            );
            Ok(console::ask(arch::MACHINE, None))
        }
        Start::Menu { all_done: None } => Ok(console::ask(arch::MACHINE, Some(console::PATIENCE))),
    }
}
