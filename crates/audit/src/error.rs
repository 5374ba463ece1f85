//! Why an image cannot be audited, and what to give instead.

/// What is wrong with a file.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It is no program image at all.
    #[error(
        "this is neither an ELF file nor a PE/COFF image: it starts with {start}; give a linked kernel (vmlinux), program or .efi"
    )]
    NotAnImage {
        /// Its first bytes, for people.
        start: String,
    },
    /// It says it is an image, but contradicts itself or ends early.
    #[error("the {format} file is broken or cut off: {reason}")]
    Broken {
        /// `ELF` or `PE`.
        format: &'static str,
        /// What does not fit.
        reason: String,
    },
    /// It has not been linked: nothing in it has an address yet.
    #[error(
        "this is a relocatable object, whose code has no addresses yet; link it and give the result"
    )]
    Relocatable,
    /// A memory dump.
    #[error("this is a core dump, not an image; give the program it came from")]
    Core,
    /// Its code is not little-endian.
    #[error("this is a big-endian image; x86-64 and little-endian arm64 can be audited")]
    BigEndian,
    /// Its code is 32-bit.
    #[error("this is a 32-bit image ({architecture}); x86-64 and arm64 can be audited")]
    ThirtyTwoBit {
        /// What it is for.
        architecture: String,
    },
    /// It is for another architecture.
    #[error("this image is for {architecture}; x86-64 and arm64 can be audited")]
    Architecture {
        /// What it is for.
        architecture: String,
    },
    /// A Linux boot image, in which the kernel is compressed.
    #[error(
        "this is a compressed Linux boot image ({form}): the kernel inside is not visible; unpack it first with \
         scripts/extract-vmlinux of the Linux sources, or give the vmlinux it was made of"
    )]
    CompressedLinux {
        /// `bzImage` or `EFI zboot`.
        form: &'static str,
    },
    /// Something else that is compressed.
    #[error("this file is compressed ({form}); unpack it first")]
    Compressed {
        /// By what.
        form: &'static str,
    },
    /// A flat image, which does not say where its code ends.
    #[error(
        "this is a flat arm64 image, which does not say what of it is code; give the ELF file it was made of"
    )]
    Flat,
    /// A firmware volume: a file system of images.
    #[error(
        "this is a firmware volume, which holds many images; extract the .efi files from it and give those"
    )]
    FirmwareVolume,
    /// It has no executable code.
    #[error("this image has no executable section or segment")]
    NoText,
}
