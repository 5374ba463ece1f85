//! arm64: what is planted is found, at whole words.

use kpkeys_audit::{Path, Value, audit};
use proptest::prelude::*;

use crate::support::{AARCH64, BASE, named, stripped, words};

const MSR_POR: u32 = 0xd518_a282; // msr por_el1, x2
const RET: u32 = 0xd65f_03c0;

#[test]
fn values_are_told_by_where_they_come_from() {
    let cases: [(&str, &[u32], Value); 5] = [
        ("mov x2, #0x1234; movk", &[0xd282_4682, 0xf2aa_aaa2], Value::Constant(0x5555_1234)),
        ("ldr x2, [x0]", &[0xf940_0002], Value::Memory),
        ("mov x2, x0", &[0xaa00_03e2], Value::Unknown),
        ("mrs x2, por_el1; orr x2, x2, #1", &[0xd538_a282, 0xb240_0042], Value::Register),
        ("ldp x2, x3, [sp]", &[0xa940_0fe2], Value::Memory),
    ];
    for (what, before, expected) in cases {
        let code = words(&[before, &[MSR_POR, RET]].concat());
        let sites = audit(&named(AARCH64, &code, &[(0, "gate")])).unwrap().sites;
        let [site] = &sites[..] else { panic!("{what}: {sites:#?}") };
        assert_eq!((site.kind.name(), site.value), ("msr por_el1", expected), "{what}");
        assert_eq!((site.function.as_str(), site.path), ("gate", Path::Decoded));
    }
}

#[test]
fn a_branch_that_enters_in_between_ends_a_constant() {
    // mov x2, #1; (here) msr por_el1, x2; cbnz x0, here
    let code = words(&[0xd280_0022, MSR_POR, 0xb5ff_ffe0, RET]);
    assert_eq!(audit(&stripped(AARCH64, &code)).unwrap().sites[0].value, Value::Unknown);
}

#[test]
fn immediates_are_values() {
    let code = words(&[0xd500_419f, 0xd500_409f, 0xd503_42df]);
    let sites = audit(&stripped(AARCH64, &code)).unwrap().sites;
    let found: Vec<_> = sites.iter().map(|site| (site.kind.name(), site.value)).collect();
    let pan = |value| ("msr pan, imm", Value::Constant(value));
    assert_eq!(found, [pan(1), pan(0), ("msr daifset, imm", Value::Constant(2))]);
}

#[test]
fn what_the_file_marks_as_data_is_hidden() {
    let code = words(&[RET, MSR_POR, MSR_POR, RET]);
    let names = [(0, "$x"), (0, "f"), (4, "$d.1"), (8, "$x.2"), (8, "g")];
    let sites = audit(&named(AARCH64, &code, &names)).unwrap().sites;
    let found: Vec<_> =
        sites.iter().map(|s| (s.address - BASE, s.path, s.function.as_str())).collect();
    assert_eq!(found, [(4, Path::Hidden, "f"), (8, Path::Decoded, "g")]);
}

proptest! {
    /// Every aligned word that is such an instruction is reported, and nothing else.
    #[test]
    fn no_word_is_missed(
        code in proptest::collection::vec(
            prop_oneof![
                any::<u32>(),
                (0u32..32).prop_map(|rt| 0xd518_a280 | rt),
                (0u32..32).prop_map(|rt| 0xd518_2000 | rt),
            ],
            0..100,
        )
    ) {
        let bytes = words(&[&code[..], &[RET]].concat());
        let report = audit(&stripped(AARCH64, &bytes)).unwrap();
        for (index, word) in code.iter().enumerate() {
            let expected = match word & !31 {
                0xd518_a280 => "msr por_el1",
                0xd518_2000 => "msr ttbr0_el1",
                _ => continue,
            };
            let at = BASE + 4 * index as u64;
            let here: Vec<_> = report.sites.iter().filter(|site| site.address == at).collect();
            prop_assert_eq!(here.len(), 1);
            prop_assert_eq!(here[0].kind.name(), expected);
        }
        let plain = report.sites.iter().all(|site| site.address % 4 == 0);
        prop_assert!(plain);
    }
}
