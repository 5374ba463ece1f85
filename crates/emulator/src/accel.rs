//! Who executes the kernel: the emulator, or this machine's own CPU with the kernel as its guest.

use crate::{Error, Target};
use std::fmt;
use std::fs::OpenOptions;
use std::path::Path;
use std::str::FromStr;

/// See the module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Accel {
    /// The emulator, which has CPU models with every feature.
    #[default]
    Tcg,
    /// This machine's CPU, by Linux's KVM: what it has of protection, really enforced. Guests have neither PKS nor POE.
    Kvm,
}

const KVM: &str = "/dev/kvm";

/// What the emulator says where KVM gives up on an instruction of the guest's. It waits for somebody to look at it then.
pub(crate) const GIVEN_UP: &str = "KVM internal error";

impl Accel {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Tcg, Self::Kvm];

    /// Its name on command lines, which is the emulator's.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcg => "tcg",
            Self::Kvm => "kvm",
        }
    }

    /// Whether this machine can run this target's kernel so, as far as can be seen without running it.
    ///
    /// # Errors
    ///
    /// [`Error::NotAccelerated`], with the reason.
    pub fn check(self, target: Target) -> Result<(), Error> {
        let host = std::env::consts::ARCH;
        let refused = |reason| Err(Error::NotAccelerated { accel: self, reason });
        match (self, target) {
            (Self::Tcg, _) => Ok(()),
            (Self::Kvm, Target::Aarch64) => refused(
                "the kernel of arm64 ends by semihosting, which is the emulator's; --accel tcg has it".to_owned(),
            ),
            (Self::Kvm, Target::X86_64) if host != "x86_64" => {
                refused(format!("a guest has its host's CPU, which is {host}; --accel tcg emulates another"))
            }
            (Self::Kvm, Target::X86_64) => can_open(Path::new(KVM)).or_else(refused),
        }
    }
}

/// # Errors
///
/// Why not, and what to do.
fn can_open(device: &Path) -> Result<(), String> {
    match OpenOptions::new().read(true).write(true).open(device) {
        Ok(_) => Ok(()),
        Err(error) => Err(format!(
            "{} cannot be opened: {error}; it needs a CPU with virtualisation turned on, and the right to use it (group kvm)",
            device.display()
        )),
    }
}

impl fmt::Display for Accel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Accel {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|accel| accel.name() == name);
        known.ok_or_else(|| format!("known are {}", Self::ALL.map(Self::name).join(" and ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_had_is_refused_with_the_reason() {
        assert!(Target::ALL.into_iter().all(|target| Accel::Tcg.check(target).is_ok()));
        let error = Accel::Kvm.check(Target::Aarch64).unwrap_err().to_string();
        assert!(error.contains("kvm") && error.contains("--accel tcg"), "{error}");
        let error = can_open(Path::new("/no/such/device")).unwrap_err();
        assert!(error.contains("/no/such/device") && error.contains("group kvm"), "{error}");
        assert_eq!("kvm".parse(), Ok(Accel::Kvm));
        assert_eq!("xen".parse::<Accel>(), Err("known are tcg and kvm".to_owned()));
    }
}
