//! The console's PL011.

use super::devices;
use arm_pl011_uart::{DataBits, LineConfig, Parity, StopBits, Uart, UniqueMmioPointer};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};

/// Where QEMU's `virt` board has it: used until, and unless, the device tree says another place, so that there is a way to say what is
/// wrong with the device tree.
pub const BOARD_CONSOLE: u64 = 0x0900_0000;

static PHYSICAL: AtomicU64 = AtomicU64::new(BOARD_CONSOLE);

/// Physical address of the registers.
pub fn physical() -> u64 {
    PHYSICAL.load(Ordering::Relaxed)
}

/// Remembers where the device tree says they are.
pub fn set_physical(address: u64) {
    PHYSICAL.store(address, Ordering::Relaxed);
}

/// The serial port, once initialised.
pub struct Serial(Uart<'static>);

impl Serial {
    /// Initialises the PL011: where the kernel's tables have mapped it, or, on the boot tables, one to one.
    ///
    /// # Safety
    ///
    /// At most one `Serial` may be in use at a time. The boot tables must map the registers while no table of the kernel's does.
    pub unsafe fn new() -> Option<Self> {
        let address = devices::address(physical()).unwrap_or(physical() as *mut u8);
        let registers = NonNull::new(address.cast())?;
        // SAFETY: the registers are mapped as device memory, and the caller makes this the only driver.
        let mut uart = Uart::new(unsafe { UniqueMmioPointer::new(registers) });
        let line = LineConfig {
            data_bits: DataBits::Bits8,
            parity: Parity::None,
            stop_bits: StopBits::One,
        };
        // The clock of the `virt` board. Emulators do not care, and firmware of other boards has set the rate that it wants.
        uart.enable(line, 115_200, 24_000_000).ok()?;
        Some(Self(uart))
    }

    /// A byte that has come in, if one has.
    pub fn read(&mut self) -> Option<u8> {
        self.0.read_word().ok().flatten()
    }

    /// Sends all bytes, waiting for the device.
    pub fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            while self.0.is_tx_fifo_full() {
                core::hint::spin_loop();
            }
            self.0.write_word(*byte);
        }
    }
}
