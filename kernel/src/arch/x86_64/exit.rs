//! Leaving the machine: through QEMU's `isa-debug-exit` device, or by a restart.
//!
//! The device (`-device isa-debug-exit,iobase=0xf4,iosize=0x04`) ends the emulator with
//! status `(value << 1) | 1` for a 32-bit write of `value`. So the emulator ends with
//! 33 for `Success`, 35 for `Failed`, 37 for `Panicked`, 39 for `Refused`; even numbers
//! and 1 are the emulator's own.

use crate::exit::Exit;
use x86_64::instructions::{interrupts, port::Port};

/// The device's I/O port.
pub const EXIT_PORT: u16 = 0xf4;

/// Ends the emulator; on a machine without the device, turns interrupts off and returns.
pub fn end_emulator(why: Exit) {
    // SAFETY: the port belongs to the exit device, whose only effect is to end the
    // machine; without the device the write goes nowhere.
    unsafe { Port::<u32>::new(EXIT_PORT).write(why as u32) };
    interrupts::disable();
}

/// Restarts the machine: by the reset control register, which PCs have at this port (Intel 500 series PCH datasheet vol. 2, "RST_CNT"; AMD has it
/// too), and where that does nothing by the line that the keyboard controller pulls. Returns where neither does. (An exception that cannot be
/// delivered would do it everywhere, but takes an LIDT that nothing else needs, in a kernel whose IDT is to stay what it is.)
pub fn restart() {
    const RESET_CONTROL: u16 = 0xcf9;
    const SYSTEM_RESET: u8 = 1 << 1;
    const RESET_CPU: u8 = 1 << 2;
    const KEYBOARD_COMMAND: u16 = 0x64;
    const PULSE_RESET_LINE: u8 = 0xfe;
    let (mut control, mut keyboard) =
        (Port::<u8>::new(RESET_CONTROL), Port::<u8>::new(KEYBOARD_COMMAND));
    // SAFETY: nothing is to go on from here.
    unsafe {
        control.write(SYSTEM_RESET);
        control.write(SYSTEM_RESET | RESET_CPU);
        wait();
        keyboard.write(PULSE_RESET_LINE);
        wait();
    }
}

/// Milliseconds, on any CPU, of which a reset takes the smallest part. Not by the clock, which may not run yet.
fn wait() {
    const TURNS: u32 = 1_000_000;
    (0..TURNS).for_each(|_| core::hint::spin_loop());
}

/// Does nothing: a PC is switched off by what its firmware's own code says (ACPI 6.5, 7.4.2 "_Sx"), which this kernel does not run.
pub fn switch_off() {}
