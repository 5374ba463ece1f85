//! Files that cannot be audited are named for what they are, and no bytes make the crate panic.

use kpkeys_audit::{Error, audit};
use proptest::prelude::*;

use crate::support::{AARCH64, CORE, EXECUTABLE, RELOCATABLE, X86_64, header, named, stripped};

fn refused(bytes: &[u8]) -> Error {
    audit(bytes).expect_err("it is no image that can be audited")
}

fn with(offset: usize, magic: &[u8]) -> Vec<u8> {
    let mut bytes = b"MZ".to_vec();
    bytes.resize(0x1000, 0);
    bytes[offset..offset + magic.len()].copy_from_slice(magic);
    bytes
}

#[test]
fn each_wrong_file_is_named() {
    assert_eq!(refused(b""), Error::NotAnImage { start: "nothing".into() });
    assert_eq!(
        refused(b"#!/bin/sh\n"),
        Error::NotAnImage { start: "23 21 2f 62 69 6e 2f 73".into() }
    );
    assert_eq!(refused(&header(RELOCATABLE, X86_64)), Error::Relocatable);
    assert_eq!(refused(&header(CORE, X86_64)), Error::Core);
    assert_eq!(refused(&header(EXECUTABLE, X86_64)), Error::NoText);
    assert!(matches!(refused(&header(EXECUTABLE, 243)), Error::Architecture { .. }));
    let mut big = header(EXECUTABLE, AARCH64);
    big[5] = 2;
    assert_eq!(refused(&big), Error::BigEndian);
    let mut narrow = header(EXECUTABLE, 3);
    narrow[4] = 1;
    assert_eq!(refused(&narrow), Error::ThirtyTwoBit { architecture: "ELF machine 3".into() });
    assert_eq!(refused(&with(0x202, b"HdrS")), Error::CompressedLinux { form: "bzImage" });
    assert_eq!(refused(&with(4, b"zimg")), Error::CompressedLinux { form: "EFI zboot" });
    assert_eq!(refused(&with(0, b"\x1f\x8b\x08")), Error::Compressed { form: "gzip" });
    let mut flat = with(56, b"ARM\x64");
    flat[..2].fill(0);
    assert_eq!(refused(&flat), Error::Flat);
    let mut volume = with(40, b"_FVH");
    volume[..2].fill(0);
    assert_eq!(refused(&volume), Error::FirmwareVolume);
    // A PE image for i386.
    let mut pe = with(0x3c, &[0x80]);
    pe[0x80..0x86].copy_from_slice(b"PE\0\0\x4c\x01");
    assert_eq!(refused(&pe), Error::ThirtyTwoBit { architecture: "PE machine 0x14c".into() });
    assert!(matches!(refused(b"MZ and no more"), Error::Broken { format: "PE", .. }));
}

/// Cut off anywhere, a file is refused, or what is left of it audited; never more than that.
#[test]
fn a_file_cut_off_anywhere_is_refused() {
    let code = [0x0f, 0x30, 0xc3, 0x90];
    for whole in [stripped(X86_64, &code), named(X86_64, &code, &[(0, "f")])] {
        for length in 0..whole.len() {
            if let Ok(report) = audit(&whole[..length]) {
                panic!("{length} of {} bytes were audited: {report:#?}", whole.len());
            }
        }
        assert_eq!(audit(&whole).unwrap().sites.len(), 1);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = audit(&bytes);
        for magic in [&b"MZ"[..], b"\x7fELF\x02\x01\x01"] {
            let _ = audit(&[magic, &bytes].concat());
        }
    }

    /// A real file with some bytes changed.
    #[test]
    fn no_damage_makes_it_panic(
        damage in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..12),
        machine in prop_oneof![Just(X86_64), Just(AARCH64)],
        is_stripped in any::<bool>(),
    ) {
        let code: Vec<u8> = (0..64).collect();
        let mut file = match is_stripped {
            true => stripped(machine, &code),
            false => named(machine, &code, &[(0, "f"), (32, "$d"), (48, "g")]),
        };
        for (place, byte) in damage {
            let place = place.index(file.len());
            file[place] = byte;
        }
        let _ = audit(&file);
    }
}
