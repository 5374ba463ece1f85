//! How the kernel ends: the one value the outside learns.

use crate::{arch, console};
use core::sync::atomic::{AtomicBool, Ordering};

/// Why the kernel stopped. The number is what the emulator's exit device is given; see
/// [`arch::exit`] for how it becomes an exit status of the emulator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Exit {
    /// Everything that was asked for was done and held.
    Success = 0x10,
    /// The kernel worked, but a test or a gate failed.
    Failed = 0x11,
    /// The kernel panicked; the message is the last thing on the console.
    Panicked = 0x12,
    /// The kernel would not start: bad command line, missing CPU feature, too little memory.
    Refused = 0x13,
}

impl Exit {
    /// How a program that reads the console is told.
    const fn name(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failed => "failed",
            Self::Panicked => "panicked",
            Self::Refused => "refused",
        }
    }
}

/// Whether the machine is to be restarted in the end.
static RESTARTS: AtomicBool = AtomicBool::new(false);

/// Has the machine restarted in the end, where it is none that an emulator ends.
pub fn restart_in_the_end() {
    RESTARTS.store(true, Ordering::Relaxed);
}

/// Leaves the machine. An emulator's exit status says how it went; where there is no emulator, the last record does. Not inlined: whoever debugs from outside stops here, with the reason in the first register of arguments.
#[inline(never)]
pub fn exit(why: Exit) -> ! {
    arch::exit::end_emulator(why);
    // Not by the heap, which a panic may have stopped in the middle of.
    console::write_line(format_args!("{{\"type\":\"end\",\"outcome\":\"{}\"}}", why.name()));
    if RESTARTS.load(Ordering::Relaxed) {
        arch::exit::restart();
    }
    arch::exit::switch_off();
    log::info!("this is the end; the machine may be switched off");
    loop {
        arch::irq::wait();
    }
}

/// Stops the boot with a reason the user can act on.
pub fn refuse(reason: core::fmt::Arguments<'_>) -> ! {
    log::error!("boot refused: {reason}");
    exit(Exit::Refused)
}
