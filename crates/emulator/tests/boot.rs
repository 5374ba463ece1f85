//! The kernel boots and passes its own tests on every machine it promises to; whatever is
//! wrong is reported in words, in time.

use kpkeys_emulator::{Error, Kernel, Line, Machine, Outcome, Run, Target};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

fn kernel() -> &'static Kernel {
    static KERNEL: OnceLock<Kernel> = OnceLock::new();
    KERNEL.get_or_init(|| Kernel::build(Target::X86_64).unwrap_or_else(|error| panic!("{error}")))
}

/// Runs and returns the outcome with all lines.
fn run(machine: &Machine) -> Result<(Run, Vec<String>), Error> {
    let mut lines = Vec::new();
    let run = kernel().run(machine, &mut |line| {
        let (Line::Record(text) | Line::Log(text)) = line;
        lines.push(text.to_owned());
    })?;
    Ok((run, lines))
}

fn with_command_line(command_line: &str) -> Machine {
    Machine { cpus: 2, command_line: command_line.to_owned(), ..Machine::default() }
}

fn passes_its_tests(memory_mib: u32, cpus: u32) {
    passes(Machine { memory_mib, cpus, ..with_command_line("tests") });
}

fn passes(machine: Machine) {
    let cpus = machine.cpus;
    let (run, lines) = run(&machine).unwrap_or_else(|error| panic!("{machine:?}: {error}"));
    assert_eq!(run.outcome, Outcome::Success, "{machine:?}:\n{}", lines.join("\n"));
    let boot = format!("\"cpus\":{cpus},");
    assert!(lines.iter().any(|line| line.contains(&boot)), "{machine:?}: not all CPUs started");
    let passed = |line: &&String| line.contains("\"type\":\"test\"") && line.contains("true");
    assert!(lines.iter().filter(passed).count() > 10, "{machine:?}: hardly any test ran");
}

#[test]
fn passes_its_tests_on_one_cpu() {
    passes_its_tests(128, 1);
}

#[test]
fn passes_its_tests_on_four_cpus() {
    passes_its_tests(256, 4);
}

#[test]
fn passes_its_tests_in_every_mode() {
    for mode in ["off", "unbatched", "batched"] {
        passes(with_command_line(&format!("tests mode={mode}")));
    }
}

#[test]
fn passes_its_tests_with_every_backend() {
    for words in ["backend=mock mode=fused", "backend=mock mode=batched", "backend=none mode=fused"]
    {
        passes(with_command_line(&format!("tests {words}")));
    }
}

#[test]
fn protection_is_claimed_only_where_it_is_enforced() {
    for (words, model, enforced) in [
        ("", "max", true),
        ("mode=off", "max", false),
        ("backend=mock mode=batched", "max", false),
        ("", "max,-pks", false),
    ] {
        let machine = Machine { cpu_model: model.to_owned(), ..with_command_line(words) };
        let (run, lines) = run(&machine).unwrap_or_else(|error| panic!("{machine:?}: {error}"));
        assert_eq!(run.outcome, Outcome::Success, "{machine:?}");
        let claim = format!("\"enforced\":{enforced}");
        let claims = lines.iter().filter(|line| line.contains(&claim)).count();
        assert_eq!(claims, 1, "{machine:?}:\n{}", lines.join("\n"));
    }
}

#[test]
fn pks_is_refused_where_the_cpu_has_none() {
    let model = "max,-pks".to_owned();
    let machine = Machine { cpu_model: model, ..with_command_line("backend=pks") };
    ends_with(machine, Outcome::Refused, "this CPU has no PKS");
}

/// Ten seconds of random work on four CPUs with an attacker among them. The long form: `kpkeys run soak=600`.
#[test]
fn survives_a_short_soak() {
    for mode in ["batched", "fused"] {
        let machine = Machine { cpus: 4, ..with_command_line(&format!("soak=5 mode={mode}")) };
        let (run, lines) = run(&machine).unwrap_or_else(|error| panic!("{machine:?}: {error}"));
        assert_eq!(run.outcome, Outcome::Success, "{mode}:\n{}", lines.join("\n"));
        assert!(lines.iter().any(|line| line.contains("\"missing_frames\":0")), "{mode}");
    }
}

/// The whole matrix of the promise; minutes on a busy host, so not part of every run.
#[test]
#[ignore = "sixteen boots; run with --ignored"]
fn passes_its_tests_on_every_size() {
    for memory_mib in [128, 512, 3072, 8192] {
        for cpus in [1, 2, 4, 8] {
            passes_its_tests(memory_mib, cpus);
        }
    }
}

/// Boots `machine`, expects `outcome`, and expects `text` in one of the last lines.
fn ends_with(machine: Machine, outcome: Outcome, text: &str) {
    let (run, _) = run(&machine).unwrap_or_else(|error| panic!("{machine:?}: {error}"));
    let last = run.last.to_string();
    assert_eq!(run.outcome, outcome, "{last}");
    assert!(last.contains(text), "no \"{text}\" in: {last}");
}

#[test]
fn boot_log_comes_quickly() {
    let start = Instant::now();
    ends_with(with_command_line(""), Outcome::Success, "page-table pages protected");
    assert!(start.elapsed() < Duration::from_secs(5), "took {:?}", start.elapsed());
}

#[test]
fn every_unknown_word_is_listed() {
    ends_with(with_command_line("tests=x frob y=2"), Outcome::Refused, "`frob` `y=2`");
}

#[test]
fn a_filter_that_matches_no_test_fails() {
    ends_with(with_command_line("tests=nonesuch"), Outcome::Failed, "nonesuch");
}

#[test]
fn too_little_memory_is_said() {
    let machine = Machine { memory_mib: 32, ..Machine::default() };
    ends_with(machine, Outcome::Refused, "at least 48 MiB");
}

#[test]
fn missing_cpu_features_are_named() {
    let machine = Machine { cpu_model: "max,-smap,-umip".to_owned(), ..Machine::default() };
    ends_with(machine, Outcome::Refused, "lacks SMAP UMIP");
    let machine = Machine { cpu_model: "qemu32".to_owned(), ..Machine::default() };
    ends_with(machine, Outcome::Refused, "no 64-bit mode");
}

#[test]
fn a_panic_says_where_and_why() {
    ends_with(with_command_line("crash=panic"), Outcome::Panicked, "main.rs");
    ends_with(with_command_line("crash=panic"), Outcome::Panicked, "as the command line asked");
}

#[test]
fn a_stack_overflow_is_recognised() {
    ends_with(with_command_line("crash=stack-overflow"), Outcome::Panicked, "stack overflow");
}

#[test]
fn a_hang_is_killed_in_time_and_its_last_lines_kept() {
    let time_limit = Duration::from_secs(3);
    let machine = Machine { time_limit, ..with_command_line("crash=hang") };
    let start = Instant::now();
    let error = run(&machine).expect_err("a hang has no outcome");
    assert!(start.elapsed() < time_limit + Duration::from_secs(2));
    let text = error.to_string();
    assert!(matches!(error, Error::TimeLimit { .. }), "{text}");
    assert!(text.contains("2 CPUs up"), "{text}");
}

#[test]
fn a_dying_emulator_is_quoted() {
    let machine = Machine { cpu_model: "nonesuch".to_owned(), ..Machine::default() };
    let text = run(&machine).expect_err("there is no such CPU model").to_string();
    assert!(text.contains("nonesuch"), "{text}");
}

#[test]
fn a_missing_emulator_is_named_with_its_package() {
    let error = Target::X86_64.find_emulator_on("/nonesuch".as_ref()).expect_err("no such folder");
    assert!(
        error.to_string().contains("install --no-install-recommends qemu-system-x86;"),
        "{error}"
    );
}

#[test]
fn an_unknown_machine_is_refused_with_the_known_ones() {
    let error = "qemu-vax".parse::<Target>().expect_err("there is no such machine");
    assert!(error.to_string().contains("qemu-x86_64, qemu-aarch64"), "{error}");
}
