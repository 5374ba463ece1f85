//! The arm64 board as such, without the kernel: a program of a few instructions shows that images start, that what is
//! printed arrives, and that exit statuses mean the same as on the other target.

use kpkeys_emulator::{Error, Kernel, Line, Machine, Outcome, Run, Target};
use std::path::PathBuf;
use std::time::Duration;

/// An image in the format of the Linux boot protocol (Linux, `Documentation/arch/arm64/booting.rst`) that runs `code`, then leaves
/// by semihosting with `status`.
fn image(name: &str, code: &[u32], status: u64) -> PathBuf {
    const HEADER_WORDS: u32 = 16;
    // `b` over the header; then its fields from byte 8: load offset, image size, flags; magic at byte 56.
    let mut words = vec![0x1400_0000 | HEADER_WORDS, 0, 0, 0, 0x1_0000, 0, 0b1010];
    words.resize(14, 0);
    words.extend([0x644d_5241, 0]);
    words.extend(code);
    // SYS_EXIT, number 0x18 in w0, takes the address of two words in x1: that the application ended, and its status.
    let exit = [adr(1, 12), movz_w(0, 0x18), 0xd45e_0000];
    words.extend(exit);
    let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    bytes.extend([0x2_0026, status].map(u64::to_le_bytes).concat());
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

fn movz_w(register: u32, value: u32) -> u32 {
    0x5280_0000 | value << 5 | register
}

/// `adr`, for multiples of 4.
fn adr(register: u32, offset: u32) -> u32 {
    0x1000_0000 | (offset / 4) << 5 | register
}

/// Prints `text` to the board's PL011, whose data register is at 0x900_0000.
fn print(text: &str) -> Vec<u32> {
    const X1_TO_UART: u32 = 0xd2a1_2001;
    const STRB_W2_TO_X1: u32 = 0x3900_0022;
    let bytes = text.bytes().flat_map(|byte| [movz_w(2, byte.into()), STRB_W2_TO_X1]);
    [X1_TO_UART].into_iter().chain(bytes).collect()
}

fn run(image: PathBuf, machine: &Machine) -> Result<(Run, Vec<String>), Error> {
    let mut lines = Vec::new();
    let run = Kernel::prebuilt(Target::Aarch64, image).run(machine, &mut |line| {
        let (Line::Record(text) | Line::Log(text)) = line;
        lines.push(text.to_owned());
    })?;
    Ok((run, lines))
}

#[test]
fn exit_statuses_mean_the_same_as_elsewhere() {
    let outcomes =
        [Outcome::Success, Outcome::Failed, Outcome::Panicked, Outcome::Refused].into_iter();
    for (status, outcome) in (33..).step_by(2).zip(outcomes) {
        let image = image(&format!("exit-{status}"), &[], status);
        assert_eq!(run(image, &Machine::default()).unwrap().0.outcome, outcome, "{status}");
    }
    let died = run(image("exit-1", &[], 1), &Machine::default()).unwrap_err();
    assert!(matches!(died, Error::Died { .. }), "{died}");
}

#[test]
fn what_is_printed_arrives_before_the_end() {
    let image = image("print", &print("{\"a\":1}\nlast words"), 33);
    assert_eq!(run(image, &Machine::default()).unwrap().1, ["{\"a\":1}", "last words"]);
}

#[test]
fn board_options_and_cpu_models_can_be_chosen() {
    let image = image("options", &[], 33);
    let machine = Machine {
        cpus: 2,
        cpu_model: "neoverse-n1".into(),
        board_options: "gic-version=2,virtualization=on".into(),
        ..Machine::default()
    };
    assert_eq!(run(image.clone(), &machine).unwrap().0.outcome, Outcome::Success);
    // Nine CPUs are too many for a GICv2: the option was taken.
    let error = run(image, &Machine { cpus: 9, ..machine }).unwrap_err().to_string();
    assert!(error.contains("CPUs"), "{error}");
}

#[test]
fn the_clock_can_count_instructions() {
    const READ_CLOCK_TO_X3: u32 = 0xd53b_e043;
    const READ_CLOCK_TO_X4: u32 = 0xd53b_e044;
    /// x4 -= x3; status in x4, which goes to the second word of the block the exit call takes.
    const DIFFERENCE: u32 = 0xcb03_0084;
    const X4_TO_STATUS: u32 = 0xf900_0424;
    const NOP: u32 = 0xd503_201f;
    let machine = Machine {
        clock_by_instructions: true,
        time_limit: Duration::from_secs(20),
        ..Machine::default()
    };
    for nops in [0, 19] {
        let mut code = vec![READ_CLOCK_TO_X3];
        code.extend(vec![NOP; nops]);
        // The store's base is where the block will be: behind this `adr`, the store, and the three words of the exit.
        code.extend([READ_CLOCK_TO_X4, DIFFERENCE, adr(1, 20), X4_TO_STATUS]);
        let error = run(image(&format!("clock-{nops}"), &code, 0), &machine).unwrap_err();
        let Error::Died { status, .. } = error else { panic!("{error}") };
        // From the first read to the second: itself, or the first, and the instructions between.
        assert_eq!(status.code(), Some(1 + nops as i32));
    }
}
