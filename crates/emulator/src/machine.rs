//! What the emulated machine is to have.

use crate::Accel;
use std::path::PathBuf;
use std::time::Duration;

/// The machine and how long it may run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// RAM in MiB.
    pub memory_mib: u32,
    /// CPUs; the kernel uses up to 64.
    pub cpus: u32,
    /// NUMA nodes, which memory and CPUs are dealt out to.
    pub nodes: u32,
    /// Who executes the kernel.
    pub accel: Accel,
    /// The emulator's name for the CPU model.
    pub cpu_model: String,
    /// Options of the emulator's board beyond the target's own, such as `gic-version=2`; they win.
    pub board_options: String,
    /// A device tree to boot with instead of the board's own, where the target has any. The emulator puts the memory and the command line
    /// into it.
    pub device_tree: Option<PathBuf>,
    /// An archive of files (cpio, newc) for the kernel to run programs from.
    pub initramfs: Option<PathBuf>,
    /// Whether the emulated time is the number of instructions executed, one nanosecond each, instead of
    /// the host's. The same run then takes the same time to the nanosecond. With more than one
    /// CPU their instructions add up.
    pub clock_by_instructions: bool,
    /// The kernel's command line.
    pub command_line: String,
    /// The emulator is killed after this.
    pub time_limit: Duration,
}

impl Default for Machine {
    /// One CPU with every feature the emulator knows, 256 MiB, one minute.
    fn default() -> Self {
        Self {
            memory_mib: 256,
            cpus: 1,
            nodes: 1,
            accel: Accel::Tcg,
            cpu_model: "max".to_owned(),
            board_options: String::new(),
            device_tree: None,
            initramfs: None,
            clock_by_instructions: false,
            command_line: String::new(),
            time_limit: Duration::from_secs(60),
        }
    }
}
