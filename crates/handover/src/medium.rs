//! Which file lies where on a boot medium. Names are as FAT and UEFI have them: short, separated by `/` here.

/// The kind of machine that a medium starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    /// 64-bit PCs.
    X86_64,
    /// 64-bit Arm.
    Aarch64,
}

/// What is said before the command line of one kind of machine, and what the kernel is to be started with.
pub const SETTINGS: &str = "kpkeys.txt";
/// How many lines of the settings have been started; the loader keeps it there while there is more than one.
pub const STARTED: &str = "kpkeys.next";

impl Machine {
    /// Every kind.
    pub const ALL: [Machine; 2] = [Machine::X86_64, Machine::Aarch64];

    /// Its name in settings and on command lines.
    pub const fn name(self) -> &'static str {
        match self {
            Machine::X86_64 => "x86_64",
            Machine::Aarch64 => "aarch64",
        }
    }

    /// Where firmware looks for the loader on a removable medium (UEFI 2.10, 3.5.1.1).
    pub const fn loader(self) -> &'static str {
        match self {
            Machine::X86_64 => "EFI/BOOT/BOOTX64.EFI",
            Machine::Aarch64 => "EFI/BOOT/BOOTAA64.EFI",
        }
    }

    /// Where the loader looks for the kernel.
    pub const fn kernel(self) -> &'static str {
        match self {
            Machine::X86_64 => "EFI/kpkeys/x86_64.elf",
            Machine::Aarch64 => "EFI/kpkeys/aarch64.img",
        }
    }

    /// The kernel's backends, the best first.
    pub const fn backends(self) -> &'static [&'static str] {
        match self {
            Machine::X86_64 => &["pks", "smap", "mock", "none"],
            Machine::Aarch64 => &["poe", "pan", "ttbr0", "mock", "none"],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One medium is for machines of both kinds.
    #[test]
    fn every_kind_has_files_of_its_own_and_its_loader_where_firmware_looks() {
        let loaders = Machine::ALL.map(Machine::loader);
        assert_eq!(loaders, ["EFI/BOOT/BOOTX64.EFI", "EFI/BOOT/BOOTAA64.EFI"]);
        let kernels = Machine::ALL.map(Machine::kernel);
        assert_ne!(kernels[0], kernels[1]);
        for (machine, kernel) in Machine::ALL.into_iter().zip(kernels) {
            let name = kernel.strip_prefix("EFI/kpkeys/").unwrap();
            assert!(name.starts_with(machine.name()), "{kernel}");
        }
    }
}
