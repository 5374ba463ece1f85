//! COM1, where the console goes.

use uart_16550::{Config, Uart16550, backend::PioBackend};

/// The I/O ports of COM1 on every PC.
const COM1: u16 = 0x3f8;

/// The serial port, once initialised.
pub struct Serial(Uart16550<PioBackend>);

impl Serial {
    /// Initialises COM1. `None` when there is no working port: then the kernel runs mute.
    ///
    /// # Safety
    ///
    /// At most one `Serial` may be in use at a time.
    pub unsafe fn new() -> Option<Self> {
        // SAFETY: COM1's ports belong to the UART, and the caller makes this the only driver.
        let mut port = unsafe { Uart16550::new_port(COM1) }.ok()?;
        port.init(Config::default()).ok()?;
        Some(Self(port))
    }

    /// A byte that has come in, if one has.
    pub fn read(&mut self) -> Option<u8> {
        self.0.try_receive_byte().ok()
    }

    /// Sends all bytes, waiting for the device.
    pub fn write(&mut self, bytes: &[u8]) {
        self.0.send_bytes_exact(bytes);
    }
}
