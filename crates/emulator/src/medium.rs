//! Running what a medium holds, as a machine with UEFI firmware would from a USB stick.
//!
//! Nothing of the emulator's own helps: no exit device, no kernel and no command line of its. So the kernel's last record says how it ended.
//! What is written to the medium is forgotten when the emulator ends.

use std::ffi::OsString;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kpkeys_handover::medium::Machine as Kind;

use crate::run::Watch;
use crate::{Error, Line, Machine, Target};

/// The files of UEFI firmware.
#[derive(Clone, Debug)]
pub struct Firmware {
    /// The firmware.
    pub code: PathBuf,
    /// Its variables, as a new machine has them.
    pub variables: PathBuf,
}

impl Target {
    /// The Debian package that has firmware for it, and where it puts the firmware, without Secure Boot.
    pub fn debian_firmware(self) -> (&'static str, Firmware) {
        let (package, code, variables) = match self.machine() {
            Kind::X86_64 => {
                ("ovmf", "/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd")
            }
            Kind::Aarch64 => (
                "qemu-efi-aarch64",
                "/usr/share/AAVMF/AAVMF_CODE.fd",
                "/usr/share/AAVMF/AAVMF_VARS.fd",
            ),
        };
        (package, Firmware { code: code.into(), variables: variables.into() })
    }

    /// The board on which firmware describes the machine as its kernel wants it described.
    fn firmware_board(self) -> &'static str {
        match self.machine() {
            Kind::X86_64 => "q35",
            Kind::Aarch64 => "virt,gic-version=3,acpi=off",
        }
    }
}

/// Starts a machine from a medium and hands each line on its serial line to `on_line`, until that says that it is enough, or the machine is
/// switched off. Returns how long that took. Of `machine` the command line, the device tree and the archive are not used.
///
/// # Errors
///
/// [`Error::EmulatorMissing`]; [`Error::Io`] when it does not start; [`Error::TimeLimit`], with what was printed last.
pub fn boot_medium(
    target: Target,
    firmware: &Firmware,
    medium: &Path,
    machine: &Machine,
    on_line: &mut dyn FnMut(Line<'_>) -> ControlFlow<()>,
) -> Result<Duration, Error> {
    let program = target.find_emulator()?;
    let mut command = Command::new(&program);
    command.args(arguments(target, firmware, medium, machine));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let start = Instant::now();
    let child = command.spawn().map_err(|source| Error::Io { program: program.clone(), source })?;
    Watch::new(child, program, on_line).until_enough(start, machine.time_limit)
}

fn arguments(
    target: Target,
    firmware: &Firmware,
    medium: &Path,
    machine: &Machine,
) -> Vec<OsString> {
    let board = match machine.board_options.as_str() {
        "" => target.firmware_board().to_owned(),
        options => format!("{},{options}", target.firmware_board()),
    };
    let (cpus, memory) = (machine.cpus.to_string(), format!("{}M", machine.memory_mib));
    let drive = |options: &str, file: &Path| {
        let mut drive = OsString::from(format!("{options},format=raw,file="));
        drive.push(file);
        ["-drive".into(), drive]
    };
    let mut arguments = vec![];
    let with_value = [
        ["-M", &board],
        ["-cpu", &machine.cpu_model],
        ["-smp", &cpus],
        ["-m", &memory],
        ["-accel", "tcg"],
        ["-display", "none"],
        ["-serial", "stdio"],
        ["-monitor", "none"],
        ["-device", "qemu-xhci"],
    ];
    arguments.extend(["-nodefaults", "-no-user-config"].map(OsString::from));
    arguments.extend(with_value.concat().into_iter().map(Into::into));
    arguments.extend(drive("if=pflash,readonly=on", &firmware.code));
    arguments.extend(drive("if=pflash,snapshot=on", &firmware.variables));
    arguments.extend(drive("if=none,id=stick,snapshot=on", medium));
    arguments.extend(["-device", "usb-storage,drive=stick,removable=on"].map(Into::into));
    arguments
}
