//! x86-64: what is planted is found, where it is and no more often.

use kpkeys_audit::{Path, Site, Value, audit};
use proptest::prelude::*;

use crate::support::{BASE, X86_64, named, stripped};

/// Instructions that are looked for, as an assembler encodes them.
const PLANTED: &[(&str, &[u8])] = &[
    ("wrmsr", &[0x0f, 0x30]),
    ("wrmsrns", &[0x0f, 0x01, 0xc6]),
    ("wrmsrlist", &[0xf3, 0x0f, 0x01, 0xc6]),
    ("mov cr0", &[0x0f, 0x22, 0xc0]),
    ("mov cr3", &[0x0f, 0x22, 0xd8]),
    ("mov cr3", &[0x41, 0x0f, 0x22, 0xdf]),
    ("mov cr4", &[0x0f, 0x22, 0xe0]),
    ("mov cr8", &[0x44, 0x0f, 0x22, 0xc0]),
    ("lmsw", &[0x0f, 0x01, 0xf0]),
    ("xrstor", &[0x0f, 0xae, 0x2f]),
    ("xrstor", &[0x48, 0x0f, 0xae, 0x2f]),
    ("xrstors", &[0x48, 0x0f, 0xc7, 0x1f]),
    ("wrpkru", &[0x0f, 0x01, 0xef]),
    ("stac", &[0x0f, 0x01, 0xcb]),
    ("clac", &[0x0f, 0x01, 0xca]),
    ("iret", &[0xf2, 0x0f, 0x01, 0xca]),
    ("lidt", &[0x0f, 0x01, 0x1f]),
    ("lgdt", &[0x0f, 0x01, 0x17]),
    ("lldt", &[0x0f, 0x00, 0xd0]),
    ("ltr", &[0x0f, 0x00, 0xd8]),
    ("vm entry", &[0x0f, 0x01, 0xc2]),
    ("vm entry", &[0x0f, 0x01, 0xc3]),
    ("vm entry", &[0x0f, 0x01, 0xd8]),
    ("rsm", &[0x0f, 0xaa]),
];
/// Only on the decoded path: one byte.
const ONE_BYTE: &[(&str, &[u8])] = &[("popf", &[0x9d]), ("iret", &[0xcf]), ("iret", &[0x48, 0xcf])];

fn sites(code: &[u8]) -> Vec<Site> {
    audit(&named(X86_64, code, &[(0, "start")])).unwrap().sites
}

fn kinds_at(sites: &[Site], address: u64, path: Path) -> Vec<&'static str> {
    let here = sites.iter().filter(|site| site.address == address && site.path == path);
    here.map(|site| site.kind.name()).collect()
}

#[test]
fn every_kind_is_found_on_the_decoded_path() {
    for (name, bytes) in PLANTED.iter().chain(ONE_BYTE) {
        let code = [&[0x90, 0x55], *bytes, &[0x5d, 0xc3]].concat();
        let sites = sites(&code);
        assert_eq!(kinds_at(&sites, BASE + 2, Path::Decoded), [*name], "{bytes:x?}: {sites:#?}");
        assert_eq!(sites[0].function, "start");
        assert_eq!(sites[0].offset, 2);
    }
}

/// In the immediate of a MOV, at each place it has room at.
#[test]
fn every_kind_is_found_at_every_offset_of_another_instruction() {
    for (name, bytes) in PLANTED {
        for place in 0..=8 - bytes.len() {
            let mut code = vec![0x48, 0xb8];
            code.extend([0x11; 8]);
            code.push(0xc3);
            code[2 + place..2 + place + bytes.len()].copy_from_slice(bytes);
            let sites = sites(&code);
            // A prefix that does not change what it is, is not reported as a part of it.
            let prefixes = bytes.iter().take_while(|&&byte| is_prefix(byte)).count();
            let first = BASE + (2 + place) as u64;
            let is_it = |site: &Site| {
                site.kind.name() == *name
                    && (first..=first + prefixes as u64).contains(&site.address)
            };
            assert_eq!(
                sites.iter().filter(|site| is_it(site)).count(),
                1,
                "{name} at {place}: {sites:#?}"
            );
            assert!(sites.iter().all(|site| site.path == Path::Hidden), "{sites:#?}");
        }
    }
}

#[test]
fn a_prefix_that_changes_what_an_instruction_is_hides_the_other_one() {
    // RDMSRLIST is WRMSRNS without its prefix, a move to CR8 one to CR0, WRMSRLIST WRMSRNS.
    let cases: [(&[u8], &[&str], &str); 4] = [
        (&[0xf2, 0x0f, 0x01, 0xc6], &[], "wrmsrns"),
        (&[0x44, 0x0f, 0x22, 0xc0], &["mov cr8"], "mov cr0"),
        (&[0xf3, 0x0f, 0x01, 0xc6], &["wrmsrlist"], "wrmsrns"),
        (&[0xf2, 0x0f, 0x01, 0xca], &["iret"], "clac"),
    ];
    for (code, decoded, hidden) in cases {
        let sites = sites(code);
        assert_eq!(kinds_at(&sites, BASE, Path::Decoded), decoded);
        assert_eq!(kinds_at(&sites, BASE + 1, Path::Hidden), [hidden]);
    }
    // A prefix that changes nothing does not.
    assert_eq!(sites(&[0x48, 0x0f, 0x22, 0xd8]).len(), 1);
}

#[test]
fn one_byte_instructions_are_counted_where_they_are_hidden() {
    // mov eax, 0x9dcf9d11; popfq; ret
    let report = audit(&stripped(X86_64, &[0xb8, 0x11, 0x9d, 0xcf, 0x9d, 0x9d, 0xc3])).unwrap();
    assert_eq!(report.hidden_one_byte, 3);
    assert_eq!(kinds_at(&report.sites, BASE + 5, Path::Decoded), ["popf"]);
}

/// The decoder knows this one not.
#[test]
fn wrmsrns_with_an_immediate_is_found_with_its_register() {
    // mov eax, 0x5554; wrmsrns 0x6e1, rax
    let code = [0xb8, 0x54, 0x55, 0, 0, 0xc4, 0xe7, 0x7a, 0xf6, 0xc0, 0xe1, 0x06, 0, 0, 0xc3];
    let [site] = &sites(&code)[..] else { panic!("one site") };
    assert_eq!((site.kind.name(), site.path), ("wrmsrns", Path::Decoded));
    assert_eq!((site.msr, site.value), (Some(Value::Constant(0x6e1)), Value::Constant(0x5554)));
    assert_eq!(site.msr_name().unwrap(), "IA32_PKRS");
}

#[test]
fn functions_are_decoded_from_their_starts_whatever_is_between() {
    // A stray 48 b8 before the second function would swallow it.
    let code = [0xc3, 0x48, 0xb8, 0x0f, 0x30, 0xc3, 0x11, 0x11, 0x11, 0x11, 0x11, 0xc3];
    let file = named(X86_64, &code, &[(0, "first"), (3, "second")]);
    let report = audit(&file).unwrap();
    let [site] = &report.sites[..] else { panic!("{:#?}", report.sites) };
    assert_eq!((site.path, site.function.as_str(), site.offset), (Path::Decoded, "second", 0));
    // Without names there is no way to know.
    let [site] = &audit(&stripped(X86_64, &code)).unwrap().sites[..] else { panic!("one site") };
    assert_eq!((site.path, site.function.as_str()), (Path::Hidden, ""));
}

/// What is written, by the code right before.
#[test]
fn values_are_told_by_where_they_come_from() {
    const ECX: &[u8] = &[0xb9, 0xe1, 0x06, 0, 0];
    const XOR_EDX: &[u8] = &[0x31, 0xd2];
    let cases: [(&str, &[&[u8]], Value); 8] = [
        ("mov eax, 0x5554", &[ECX, &[0xb8, 0x54, 0x55, 0, 0], XOR_EDX], Value::Constant(0x5554)),
        (
            "mov rax, -1; and; shl",
            &[
                ECX,
                &[0x48, 0xc7, 0xc0, 0xff, 0xff, 0xff, 0xff],
                &[0x83, 0xe0, 0x0f],
                &[0xc1, 0xe0, 0x04],
                XOR_EDX,
            ],
            Value::Constant(0xf0),
        ),
        ("mov eax, [rdi]", &[ECX, &[0x8b, 0x07], XOR_EDX], Value::Memory),
        ("mov eax, esi", &[ECX, &[0x89, 0xf0], XOR_EDX], Value::Unknown),
        ("rdmsr; or eax, 1", &[ECX, &[0x0f, 0x32], &[0x83, 0xc8, 0x01]], Value::Register),
        ("pop rax", &[ECX, &[0x58], XOR_EDX], Value::Memory),
        // The call may have done anything to EAX.
        ("call", &[&[0xb8, 1, 0, 0, 0], &[0xe8, 0, 0, 0, 0], ECX, XOR_EDX], Value::Unknown),
        // EBX is the callee's to keep.
        (
            "call",
            &[&[0xbb, 1, 0, 0, 0], &[0xff, 0xd7], ECX, &[0x89, 0xd8], XOR_EDX],
            Value::Constant(1),
        ),
    ];
    for (what, before, expected) in cases {
        let code = [&before.concat()[..], &[0x0f, 0x30, 0xc3]].concat();
        let sites = sites(&code);
        let [site] = &sites[..] else { panic!("{what}: {sites:#?}") };
        assert_eq!(site.value, expected, "{what}");
        assert_eq!(site.msr, Some(Value::Constant(0x6e1)), "{what}");
    }
}

#[test]
fn a_branch_that_enters_in_between_ends_a_constant() {
    // mov ecx, 0x6e1; mov eax, 1; xor edx, edx; (here) wrmsr; dec esi; jne here
    let mut code = vec![0xb9, 0xe1, 0x06, 0, 0, 0xb8, 1, 0, 0, 0, 0x31, 0xd2];
    code.extend([0x0f, 0x30, 0xff, 0xce, 0x75, 0xfa, 0xc3]);
    assert_eq!(sites(&code)[0].value, Value::Unknown);
    // To the instruction after it, it does not.
    code[17] = 0xfc;
    assert_eq!(sites(&code)[0].value, Value::Constant(1));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever the code is, each of these byte sequences in it is reported exactly once, decoded or hidden.
    #[test]
    fn no_byte_sequence_is_missed(
        mut code in proptest::collection::vec(any::<u8>(), 1..200),
        places in proptest::collection::vec((any::<proptest::sample::Index>(), 0..PLANTED.len()), 0..12),
        starts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..4),
    ) {
        for (place, which) in places {
            let bytes = PLANTED[which].1;
            let place = place.index(code.len());
            for (to, from) in code[place..].iter_mut().zip(bytes) {
                *to = *from;
            }
        }
        let names: Vec<_> = starts.iter().map(|start| (start.index(code.len()) as u64, "f")).collect();
        let report = audit(&named(X86_64, &code, &names)).unwrap();
        for at in 0..code.len() {
            let bytes = &code[at..];
            let expected = match bytes {
                [0x0f, 0x30, ..] => "wrmsr",
                [0x0f, 0x01, 0xef, ..] => "wrpkru",
                [0x0f, 0x01, 0xcb, ..] => "stac",
                [0x0f, 0x22, modrm, ..] if modrm & 0x38 == 0x18 => "mov cr3",
                _ => continue,
            };
            // Those with prefixes begin before.
            let begins = |site: &Site| {
                let start = (site.address - BASE) as usize;
                start <= at && at - start < 15 && code[start..at].iter().all(|byte| is_prefix(*byte))
            };
            let found = report.sites.iter().filter(|s| s.kind.name() == expected && begins(s)).count();
            prop_assert_eq!(found, 1, "{} at {}: {:x?} {:#?}", expected, at, code, report.sites);
        }
        for site in &report.sites {
            prop_assert!(site.address >= BASE && site.address < BASE + code.len() as u64);
        }
    }
}

fn is_prefix(byte: u8) -> bool {
    matches!(byte, 0x26 | 0x2e | 0x36 | 0x3e | 0x40..=0x4f | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3)
}
