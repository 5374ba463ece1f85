//! The MMU model against the manuals' rules, written down a second time, for every combination of what decides.
//!
//! Here a permission is a string of the letters `r`, `w` and `x`; the model has it in bits. What is taken from the manuals are the
//! tables; that a combination is what all of them have in common is said once.

use kpkeys_hosted::mmu::{Allowed, Cpu, Permissions, Privilege, Refusal, Want, aarch64, x86_64};
use kpkeys_pgtable::Entry;
use std::fmt::Debug;

/// Arm ARM, "Data accesses permissions": AP\[2:1\], and what EL1 and EL0 may load and store.
const AP: [(u64, &str, &str); 4] =
    [(0b00, "rw", ""), (0b01, "rw", "rw"), (0b10, "r", ""), (0b11, "r", "r")];

/// Arm ARM, PIR_EL1: each value, and whether an overlay applies. (0b1001 is a guarded control stack, read-only to other accesses.)
const PIR: [(&str, bool); 16] = [
    ("", true),
    ("r", true),
    ("x", true),
    ("rx", true),
    ("", true),
    ("rw", true),
    ("rwx", true),
    ("rwx", true),
    ("r", false),
    ("r", false),
    ("rx", false),
    ("", false),
    ("rw", false),
    ("", false),
    ("rwx", false),
    ("", false),
];

/// The value of PIR_EL1 under which write permission means that there is none to execute.
const RW_OR_X: usize = 0b0110;

/// Arm ARM, POR_EL1: each value. From 8 up they are reserved.
const POR: [&str; 16] =
    ["", "r", "x", "rx", "w", "rw", "wx", "rwx", "", "", "", "", "", "", "", ""];

const LETTERS: [(char, Want); 3] = [('r', Want::Read), ('w', Want::Write), ('x', Want::Execute)];

fn common(a: &str, b: &str) -> String {
    a.chars().filter(|&letter| b.contains(letter)).collect()
}

fn without(a: &str, letters: &str) -> String {
    a.chars().filter(|&letter| !letters.contains(letter)).collect()
}

fn letters(allowed: Allowed) -> String {
    LETTERS.iter().filter(|(_, want)| allowed.allows(*want)).map(|(letter, _)| letter).collect()
}

/// What one privilege may do: by its key alone, and in all.
struct Expected<'a> {
    key: &'a str,
    all: String,
}

/// Both privileges' permissions, and which of two reasons is given for each access that is refused: the key wherever it refuses, whatever
/// else does (Arm ARM, D8.15.5.1; Intel SDM vol. 3A 4.7, "PK flag").
#[track_caller]
fn assert_permissions(found: Permissions, kernel: &Expected, user: &Expected, what: &dyn Debug) {
    for (who, expected) in [(Privilege::Kernel, kernel), (Privilege::User, user)] {
        assert_eq!(letters(found.by_key[who as usize]), expected.key, "{who:?} {what:?}");
        assert_eq!(letters(found.allowed[who as usize]), expected.all, "{who:?} {what:?}");
        for (letter, want) in LETTERS {
            let refusal = match (expected.key.contains(letter), expected.all.contains(letter)) {
                (false, _) => Err(Refusal::Key),
                (true, false) => Err(Refusal::Leaf),
                (true, true) => Ok(()),
            };
            assert_eq!(found.check(want, who), refusal, "{who:?} {want:?} {what:?}");
        }
    }
}

/// A register of four-bit fields: this one, and in all others what allows the opposite.
fn fields(index: u32, field: usize) -> u64 {
    let all = if field & 0b111 == 0b111 { 0 } else { 0x7777_7777_7777_7777 };
    all & !(0xf << (index * 4)) | (field as u64) << (index * 4)
}

/// A descriptor of a page with this AP, XN, PIIndex and POIndex, from bits of its own.
fn page(bits: u64, key: u32) -> Entry {
    Entry(0b11 | 1 << 10 | 0b11 << 8 | 0x1_0000_0000 | bits | u64::from(key) << 60)
}

/// Every field of the user's overlay, and that there is none.
fn user_overlays() -> impl Iterator<Item = Option<usize>> {
    (0..16).map(Some).chain([None])
}

#[test]
fn arm64_direct_permissions_and_overlays_follow_the_manual() {
    let mut combinations = 0;
    for (ap, kernel_data, user_data) in AP {
        for (pxn, uxn, pan) in (0..8).map(|b| (b & 1 != 0, b & 2 != 0, b & 4 != 0)) {
            // What EL0 may write is never executed at EL1.
            let kernel_executes = !pxn && ap != 0b01;
            let kernel = format!("{kernel_data}{}", if kernel_executes { "x" } else { "" });
            let user = format!("{user_data}{}", if uxn { "" } else { "x" });
            for key in [0, 1, 7] {
                let bits = ap << 6 | u64::from(pxn) << 53 | u64::from(uxn) << 54;
                for (overlay, by_overlay) in POR.into_iter().enumerate() {
                    for user_overlay in user_overlays() {
                        let cpu = Cpu {
                            pan,
                            user_register: user_overlay.map(|field| fields(key, field)),
                            ..Cpu::new(fields(key, overlay))
                        };
                        // PAN goes by what the base lets a program load or store, whatever its overlay is; its code alone does not count.
                        let data = if pan && !user_data.is_empty() { "x" } else { "rwx" };
                        let by_user_overlay = user_overlay.map_or("rwx", |field| POR[field]);
                        let found = aarch64::permissions(page(bits, key), &cpu);
                        let all = common(&common(&kernel, data), by_overlay);
                        assert_permissions(
                            found,
                            &Expected { key: by_overlay, all },
                            &Expected { key: by_user_overlay, all: common(&user, by_user_overlay) },
                            &(ap, pxn, uxn, cpu),
                        );
                        combinations += 1;
                    }
                }
            }
        }
    }
    assert_eq!(combinations, 4 * 8 * 3 * 16 * 17);
}

/// A clean page that may be written: hardware that manages the dirty state writes it, so the model lets it be written.
#[test]
fn arm64_clean_pages_that_may_be_written_count_as_writable() {
    const READ_ONLY: u64 = 1 << 7;
    const DBM: u64 = 1 << 51;
    let never_executed = 0b11 << 53;
    for (bits, expected) in [(0, "rw"), (DBM, "rw"), (DBM | READ_ONLY, "rw"), (READ_ONLY, "r")] {
        let cpu = Cpu::new(0x7777_7777);
        let found = aarch64::permissions(page(bits | never_executed, 0), &cpu);
        assert_eq!(letters(found.allowed[0]), expected, "{bits:#x}");
    }
}

/// One side's permission by its base value and the overlay in force.
fn indirect(base: &str, value: usize, overlay: Option<usize>) -> String {
    let overlay = overlay.filter(|_| PIR[value].1);
    let left = overlay.map_or(base.to_owned(), |field| common(base, POR[field]));
    match (value, left.as_str(), overlay) {
        (RW_OR_X, "rwx", None) => "rw".to_owned(),
        (RW_OR_X, "rwx" | "wx", Some(_)) => without(&left, "w"),
        _ => left,
    }
}

#[test]
fn arm64_indirect_permissions_and_overlays_follow_the_manual() {
    let mut combinations = 0;
    for (kernel_value, (kernel, _)) in PIR.into_iter().enumerate() {
        for (user_value, (user, _)) in PIR.into_iter().enumerate() {
            // PIIndex is bits 54, 53, 51 and 6; what index it is must not matter.
            let index = ((kernel_value * 7 + user_value * 3) % 16) as u32;
            let bit = |from: u32, to: u32| u64::from(index >> from & 1) << to;
            let bits = bit(3, 54) | bit(2, 53) | bit(1, 51) | bit(0, 6);
            let key = ((kernel_value + user_value) % 8) as u32;
            let indirection = Some(aarch64::Indirection {
                kernel: fields(index, kernel_value),
                user: fields(index, user_value),
            });
            // R_TBKKB: PAN goes by the raw base of programs, and any of it counts, code alone too.
            let is_users = !user.is_empty();
            // What a program may write and the kernel execute is neither's.
            let clash = kernel.contains('x') && user.contains('w');
            let (kernel, user) = if clash { ("", "") } else { (kernel, user) };
            for overlay in 0..16 {
                for user_overlay in user_overlays() {
                    for pan in [false, true] {
                        let cpu = Cpu {
                            pan,
                            indirection,
                            user_register: user_overlay.map(|field| fields(key, field)),
                            ..Cpu::new(fields(key, overlay))
                        };
                        let by_overlay = |value: usize, overlay: Option<usize>| {
                            overlay.filter(|_| PIR[value].1).map_or("rwx", |field| POR[field])
                        };
                        let data = if pan && is_users { "x" } else { "rwx" };
                        let found = aarch64::permissions(page(bits, key), &cpu);
                        assert_permissions(
                            found,
                            &Expected {
                                key: by_overlay(kernel_value, Some(overlay)),
                                all: common(&indirect(kernel, kernel_value, Some(overlay)), data),
                            },
                            &Expected {
                                key: by_overlay(user_value, user_overlay),
                                all: indirect(user, user_value, user_overlay),
                            },
                            &(kernel_value, user_value, cpu),
                        );
                        combinations += 1;
                    }
                }
            }
        }
    }
    assert_eq!(combinations, 16 * 16 * 16 * 17 * 2);
}

/// An overlay never gives what the base has not, whichever base and overlay.
#[test]
fn arm64_overlays_only_take_away() {
    for (value, (base, overlaid)) in PIR.into_iter().enumerate() {
        for overlay in 0..16 {
            let indirection = aarch64::Indirection { kernel: fields(0, value), user: 0 };
            let cpu = Cpu { indirection: Some(indirection), ..Cpu::new(fields(0, overlay)) };
            let found = letters(aarch64::permissions(page(0, 0), &cpu).allowed[0]);
            assert_eq!(common(&found, base), found, "{value:#b} {overlay:#b}");
            if !overlaid {
                // Not overlaid: whatever the register says.
                assert_eq!(found, base, "{value:#b} {overlay:#b}");
            }
        }
    }
}

/// Intel SDM vol. 3A 4.6: with CR0.WP, SMEP and NX; SMAP in force or not.
#[test]
fn x86_64_permissions_and_keys_follow_the_manual() {
    for (write, user, no_execute, smap) in
        (0..16).map(|b| (b & 1 != 0, b & 2 != 0, b & 4 != 0, b & 8 != 0))
    {
        let data = if write { "rw" } else { "r" };
        let all = format!("{data}{}", if no_execute { "" } else { "x" });
        let (kernel, program) = match (user, smap) {
            (false, _) => (all.clone(), String::new()),
            (true, false) => (data.to_owned(), all.clone()),
            (true, true) => (String::new(), all.clone()),
        };
        for key in 0..16 {
            for (field, by_key) in [(0b00, "rwx"), (0b01, "x"), (0b10, "rx"), (0b11, "x")] {
                for others in [0, !(0b11 << (key * 2)) & 0xffff_ffff] {
                    let register = field << (key * 2) | others;
                    let cpu = Cpu { pan: smap, ..Cpu::new(register) };
                    let bits = u64::from(write) << 1 | u64::from(user) << 2;
                    let entry = Entry(1 | bits | key << 59 | u64::from(no_execute) << 63);
                    // PKRS binds supervisor pages alone.
                    let key = if user { "rwx" } else { by_key };
                    assert_permissions(
                        x86_64::permissions(entry, &cpu),
                        &Expected { key, all: common(&kernel, key) },
                        &Expected { key: "rwx", all: program.clone() },
                        &(entry, cpu),
                    );
                }
            }
        }
    }
}
