//! The emulated machines the kernel runs on, and what each needs. The one place that knows.

use crate::{Error, Machine};
use kpkeys_handover::medium;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// An emulated machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A 64-bit PC, `qemu-system-x86_64`.
    X86_64,
    /// QEMU's own arm64 board, `qemu-system-aarch64 -M virt`.
    Aarch64,
}

/// What tells one target from the other.
struct Facts {
    name: &'static str,
    program: &'static str,
    debian_package: &'static str,
    rust_target: &'static str,
    entry_format: &'static str,
    machine: medium::Machine,
    enforces: &'static str,
    board: &'static str,
    exit_device: [&'static str; 2],
    /// What the CPU model needs besides, for a clock that tells one nanosecond from the next.
    fine_clock: &'static str,
}

const X86_64: Facts = Facts {
    name: "qemu-x86_64",
    program: "qemu-system-x86_64",
    debian_package: "qemu-system-x86",
    rust_target: "x86_64-unknown-none",
    entry_format: "x86_64",
    machine: medium::Machine::X86_64,
    enforces: "PKS and SMAP",
    board: "pc",
    // The value `v` that the kernel writes there becomes the exit status `2 * v + 1`.
    exit_device: ["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"],
    fine_clock: "",
};

const AARCH64: Facts = Facts {
    name: "qemu-aarch64",
    program: "qemu-system-aarch64",
    debian_package: "qemu-system-arm",
    rust_target: "aarch64-unknown-none-softfloat",
    entry_format: "aarch64",
    machine: medium::Machine::Aarch64,
    enforces: "PAN, E0PD and an alias in windows alone, but not POE, which it has not",
    // With EL2, from where the kernel can raise asynchronous errors for its tests and attacks.
    board: "virt,gic-version=3,virtualization=on",
    // The kernel gives the exit status to the semihosting call SYS_EXIT.
    exit_device: ["-semihosting-config", "enable=on,target=native"],
    // The generic timer's counter runs at 62.5 MHz otherwise.
    fine_clock: ",cntfrq=1000000000",
};

impl Target {
    /// Every target.
    pub const ALL: [Self; 2] = [Self::X86_64, Self::Aarch64];

    const fn facts(self) -> &'static Facts {
        match self {
            Self::X86_64 => &X86_64,
            Self::Aarch64 => &AARCH64,
        }
    }

    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        self.facts().name
    }

    /// The emulator's program.
    pub const fn program(self) -> &'static str {
        self.facts().program
    }

    /// The Debian package that has the program.
    pub const fn debian_package(self) -> &'static str {
        self.facts().debian_package
    }

    /// The Rust target the kernel is built for.
    pub const fn rust_target(self) -> &'static str {
        self.facts().rust_target
    }

    /// The Rust target that the UEFI application which loads the kernel is built for.
    pub const fn loader_target(self) -> &'static str {
        match self.machine() {
            medium::Machine::X86_64 => "x86_64-unknown-uefi",
            medium::Machine::Aarch64 => "aarch64-unknown-uefi",
        }
    }

    /// The name of the format its page-table entries have.
    pub const fn entry_format(self) -> &'static str {
        self.facts().entry_format
    }

    /// The backends its kernel has, by the names its command line takes, the best first.
    pub const fn backends(self) -> &'static [&'static str] {
        self.machine().backends()
    }

    /// The kind of machine that it emulates.
    pub const fn machine(self) -> medium::Machine {
        self.facts().machine
    }

    /// Which hardware of those backends the emulator's CPU model `max` checks, in words.
    pub const fn enforces(self) -> &'static str {
        self.facts().enforces
    }

    /// Whether its boot protocol wants a flat image instead of an ELF file.
    pub(crate) const fn loads_flat_images(self) -> bool {
        matches!(self, Self::Aarch64)
    }

    /// Where the emulator is installed.
    ///
    /// # Errors
    ///
    /// [`Error::EmulatorMissing`] when the program is not on `PATH`.
    pub fn find_emulator(self) -> Result<PathBuf, Error> {
        self.find_emulator_on(&std::env::var_os("PATH").unwrap_or_default())
    }

    /// Like [`Target::find_emulator`], with a search path of the caller's.
    ///
    /// # Errors
    ///
    /// [`Error::EmulatorMissing`] when the program is in none of the folders.
    pub fn find_emulator_on(self, search_path: &OsStr) -> Result<PathBuf, Error> {
        std::env::split_paths(search_path)
            .map(|folder| folder.join(self.program()))
            .find(|candidate| candidate.is_file())
            .ok_or(Error::EmulatorMissing { target: self })
    }

    /// How to install the emulators of these targets, in words. Without the recommended packages: those hold `qemu-utils`,
    /// of which a newer version, from another archive, may already be installed and would conflict.
    pub fn install_advice(targets: &[Self]) -> String {
        let packages: Vec<_> = targets.iter().map(|target| target.debian_package()).collect();
        format!(
            "on Debian or Ubuntu: sudo apt-get install --no-install-recommends {}; elsewhere: your system's QEMU package",
            packages.join(" ")
        )
    }

    /// The emulator's arguments: no devices but the serial line on
    /// standard output and what hands out the exit status, and an end instead of a reboot.
    pub(crate) fn arguments(self, kernel: &Path, machine: &Machine) -> Vec<OsString> {
        let facts = self.facts();
        let (cpus, memory) = (machine.cpus.to_string(), format!("{}M", machine.memory_mib));
        let board = match machine.board_options.as_str() {
            "" => facts.board.to_owned(),
            options => format!("{},{options}", facts.board),
        };
        let cpu_model = match machine.clock_by_instructions {
            true => format!("{}{}", machine.cpu_model, facts.fine_clock),
            false => machine.cpu_model.clone(),
        };
        let mut arguments: Vec<OsString> = vec!["-kernel".into(), kernel.into()];
        let with_value = [
            ["-append", &machine.command_line],
            ["-M", &board],
            ["-cpu", &cpu_model],
            ["-smp", &cpus],
            ["-m", &memory],
            ["-accel", machine.accel.name()],
            ["-display", "none"],
            // Ctrl-C is the program's, if one runs.
            ["-chardev", "stdio,id=console,signal=off"],
            ["-serial", "chardev:console"],
            ["-monitor", "none"],
            facts.exit_device,
        ];
        arguments.extend(with_value.concat().into_iter().map(Into::into));
        arguments.extend(["-nodefaults", "-no-user-config", "-no-reboot"].map(Into::into));
        arguments.extend(nodes(machine).into_iter().map(Into::into));
        if let Some(tree) = &machine.device_tree {
            arguments.extend(["-dtb".into(), tree.into()]);
        }
        if let Some(archive) = &machine.initramfs {
            arguments.extend(["-initrd".into(), archive.into()]);
        }
        if machine.clock_by_instructions {
            arguments.extend(["-icount", "shift=0,sleep=off"].map(Into::into));
        }
        arguments
    }
}

/// What deals memory and CPUs out to several nodes. The last has what is left over.
fn nodes(machine: &Machine) -> Vec<String> {
    let (nodes, cpus, memory) = (machine.nodes, machine.cpus, machine.memory_mib);
    if nodes < 2 {
        return Vec::new();
    }
    let share = |of: u32, node: u32| {
        of / nodes * node..if node + 1 == nodes { of } else { of / nodes * (node + 1) }
    };
    let node = |node| {
        let (cpus, mib) = (share(cpus, node), share(memory, node).len());
        let cpus = if cpus.is_empty() {
            String::new()
        } else {
            format!(",cpus={}-{}", cpus.start, cpus.end - 1)
        };
        [
            "-object".to_owned(),
            format!("memory-backend-ram,id=node{node},size={mib}M"),
            "-numa".to_owned(),
            format!("node,nodeid={node},memdev=node{node}{cpus}"),
        ]
    };
    (0..nodes).flat_map(node).collect()
}

impl FromStr for Target {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        let known = Self::ALL.into_iter().find(|target| target.name() == name);
        known.ok_or_else(|| Error::UnknownTarget { name: name.to_owned() })
    }
}
