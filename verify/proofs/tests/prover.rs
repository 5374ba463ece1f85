//! The prover itself: it refutes what is wrong, proves nothing about what panics, and carries out instructions as the CPU does.
#![cfg(target_arch = "x86_64")]

use kpkeys_proofs::properties::{ALL, Function, Property};
use kpkeys_proofs::prove::{Verdict, evaluate, prove};

/// Words that are often special, and some that are not: the same each time.
fn words(count: usize) -> impl Iterator<Item = [u64; 4]> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        match state >> 60 {
            0 => 0,
            1 => u64::MAX,
            2 => 1 << (state & 63),
            3 => state & 0xfff,
            4 => state & 0x0000_ffff_ffff_f000,
            5 => state | 0xffff_8000_0000_0000,
            _ => state,
        }
    };
    (0..count).map(move |_| [next(), next(), next(), next()])
}

fn verdict(function: Function) -> Verdict {
    prove(&Property { name: "of a test", says: "", function })
}

#[test]
fn what_is_wrong_is_refuted() {
    extern "C" fn for_one_value(a: u64, b: u64, _: u64, _: u64) -> bool {
        a.rotate_left(7) ^ b != 0x1234_5678_9abc_def0
    }
    extern "C" fn at_the_edge(a: u64, b: u64, _: u64, _: u64) -> bool {
        a > 1 << 40 || a.wrapping_add(b) >= b || b < u64::MAX - 5
    }
    extern "C" fn signed(a: u64, b: u64, _: u64, _: u64) -> bool {
        (a as i64) < (b as i64) || a >> 63 != b >> 63 || a & 0xff != 0x5a
    }
    for function in [for_one_value as Function, at_the_edge, signed] {
        let Verdict::Refuted([a, b, c, d]) = verdict(function) else {
            panic!("{:?}", verdict(function))
        };
        assert!(!function(a, b, c, d));
    }
}

#[test]
fn what_panics_is_not_proved() {
    extern "C" fn beyond(a: u64, _: u64, _: u64, _: u64) -> bool {
        static WORDS: [u8; 4] = [1, 2, 3, 4];
        // 0x1_0004 is beyond the end.
        WORDS[if a == 0x1_0004 { 4 } else { (a & 3) as usize }] != 0
    }
    assert!(matches!(verdict(beyond), Verdict::Unknown(_)), "{:?}", verdict(beyond));
}

#[test]
fn instructions_do_what_the_cpu_does() {
    extern "C" fn arithmetic(a: u64, b: u64, c: u64, d: u64) -> bool {
        let x = a.wrapping_add(b).wrapping_mul(c | 1) ^ (b >> 3) ^ (c << 5);
        let y = (a as i64 >> (b & 63)) as u64 ^ a.rotate_left((c & 63) as u32) ^ (x << (a & 31));
        let z = u64::from((a as u32).wrapping_sub(b as u32))
            ^ u64::from(c as u16)
            ^ (b as i8 as i64 as u64);
        let (sum, carry) = x.overflowing_add(y);
        (sum.wrapping_sub(z) ^ u64::from(carry)) >> (d & 63) & 1 == 1
    }
    extern "C" fn decisions(a: u64, b: u64, c: u64, d: u64) -> bool {
        let mut x = if a < b { a } else { b };
        x ^= if (a as i64) < (c as i64) { c } else { !d };
        x = x.wrapping_add(
            (a == b) as u64 + (c > d) as u64 * 2 + (((b as i32) <= (d as i32)) as u64) * 4,
        );
        match x & 7 {
            0 => a & 1 == 0,
            1 => b >> 63 == 1,
            2 => a.min(c) > d.max(b),
            3 => x.checked_sub(d).is_some(),
            4 => x.checked_add(c).is_none(),
            5 => (a as u8).wrapping_add(b as u8) > c as u8,
            6 => a & (1 << (b & 63)) != 0,
            _ => (x as i64).wrapping_neg() > 0,
        }
    }
    let mut returned = [0; 2];
    for [a, b, c, d] in words(400) {
        for function in [arithmetic as Function, decisions] {
            let expected = function(a, b, c, d);
            returned[usize::from(expected)] += 1;
            assert_eq!(
                evaluate(function, [a, b, c, d]),
                Ok(expected),
                "{a:#x} {b:#x} {c:#x} {d:#x}"
            );
        }
    }
    assert!(returned.iter().all(|&times| times > 100), "{returned:?}");
}

#[test]
fn properties_hold_when_they_are_run() {
    for property in ALL {
        for [a, b, c, d] in words(20_000) {
            assert!(
                (property.function)(a, b, c, d),
                "{}: {a:#x} {b:#x} {c:#x} {d:#x}",
                property.name
            );
        }
    }
}
