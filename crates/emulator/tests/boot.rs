//! The kernel boots and passes its own tests on every machine it promises to; whatever is
//! wrong is reported in words, in time.

use kpkeys_emulator::{Error, Kernel, Line, Machine, Outcome, Run, Target};
use kpkeys_pgtable::section::{GATE_INSTRUCTIONS, GATE_STORES};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

fn kernel(target: Target) -> &'static Kernel {
    static KERNELS: [OnceLock<Kernel>; Target::ALL.len()] =
        [const { OnceLock::new() }; Target::ALL.len()];
    KERNELS[target as usize]
        .get_or_init(|| Kernel::build(target).unwrap_or_else(|error| panic!("{error}")))
}

/// A CPU model that lacks what the best backend needs, or part of it, and that the kernel protects page tables on all the same.
fn older_model(target: Target) -> &'static str {
    match target {
        Target::X86_64 => "max,-pks",
        // PAN without E0PD.
        Target::Aarch64 => "neoverse-n1",
    }
}

/// Runs and returns the outcome with all lines.
fn run(target: Target, machine: &Machine) -> Result<(Run, Vec<String>), Error> {
    let mut lines = Vec::new();
    let run = kernel(target).run(machine, &mut |line| {
        let (Line::Record(text) | Line::Log(text)) = line;
        lines.push(text.to_owned());
    })?;
    Ok((run, lines))
}

fn with_command_line(command_line: &str) -> Machine {
    Machine { cpus: 2, command_line: command_line.to_owned(), ..Machine::default() }
}

fn passes_its_tests(target: Target, memory_mib: u32, cpus: u32) {
    passes(target, Machine { memory_mib, cpus, ..with_command_line("tests later=8") });
}

fn passes(target: Target, machine: Machine) {
    let cpus = machine.cpus;
    let what = format!("{} {machine:?}", target.name());
    let (run, lines) = run(target, &machine).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(run.outcome, Outcome::Success, "{what}:\n{}", lines.join("\n"));
    let boot = format!("\"cpus\":{cpus},");
    assert!(lines.iter().any(|line| line.contains(&boot)), "{what}: not all CPUs started");
    let passed = |line: &&String| line.contains("\"type\":\"test\"") && line.contains("true");
    assert!(lines.iter().filter(passed).count() > 10, "{what}: hardly any test ran");
    for line in lines.iter().filter(|line| line.contains("\"type\":\"skip\"")) {
        let on = format!("{} CPUs {cpus} {}", target.name(), machine.board_options);
        kpkeys_skips::skip!("in the kernel on {}: {line}", on.trim());
    }
}

/// The driver with planted faults is in a kernel of another name, and in no other.
#[test]
fn has_no_planted_faults() {
    for target in Target::ALL {
        let image = std::fs::read(kernel(target).elf()).expect("it was just built");
        let has = |name: &[u8]| image.windows(name.len()).any(|bytes| bytes == name);
        assert!(has(b"urandom"), "{}: devices are not found by their names", target.name());
        assert!(!has(b"vulnerable"), "{}: the driver with planted faults", target.name());
    }
}

#[test]
fn passes_its_tests_on_one_cpu() {
    Target::ALL.into_iter().for_each(|target| passes_its_tests(target, 128, 1));
}

#[test]
fn passes_its_tests_on_four_cpus() {
    Target::ALL.into_iter().for_each(|target| passes_its_tests(target, 256, 4));
}

/// One that unmaps, one that still reads, and one that takes what is free.
#[test]
fn frees_nothing_before_it_is_flushed_on_three_cpus() {
    for target in Target::ALL {
        for mode in ["off", "unbatched", "batched", "fused"] {
            let words = with_command_line(&format!("tests=frees:: mode={mode}"));
            let machine = Machine { memory_mib: 256, cpus: 3, ..words };
            let what = format!("{} {mode}", target.name());
            let (run, lines) =
                run(target, &machine).unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(run.outcome, Outcome::Success, "{what}:\n{}", lines.join("\n"));
            assert!(lines.iter().any(|line| line.contains("\"passed\":2,")), "{what}");
        }
    }
}

#[test]
fn passes_its_tests_in_every_mode() {
    for target in Target::ALL {
        for mode in ["off", "unbatched", "batched", "fused-lean"] {
            passes(target, with_command_line(&format!("tests later=8 mode={mode}")));
        }
    }
}

#[test]
fn passes_its_tests_with_every_backend() {
    for target in Target::ALL {
        for words in
            ["backend=mock mode=fused", "backend=mock mode=batched", "backend=none mode=fused"]
        {
            passes(target, with_command_line(&format!("tests later=8 {words}")));
        }
    }
}

/// The backends of CPUs that are sold: SMAP without UMIP, PAN without E0PD, neither. Tests, and the whole matrix of attacks with protection off and on.
#[test]
fn protects_by_an_alias_on_older_cpus() {
    for (target, cpu_model, backend) in [
        (Target::X86_64, "Broadwell", "smap"),
        (Target::Aarch64, "neoverse-n1", "pan"),
        (Target::Aarch64, "cortex-a72", "ttbr0"),
    ] {
        let on_it = |words: &str| {
            let machine = with_command_line(words);
            Machine { cpu_model: cpu_model.to_owned(), cpus: 4, memory_mib: 256, ..machine }
        };
        passes(target, on_it("tests later=8"));
        for mode in ["off", "batched", "fused"] {
            let what = format!("{cpu_model} {mode}");
            let (run, lines) = run(target, &on_it(&format!("attack mode={mode}")))
                .unwrap_or_else(|error| panic!("{what}: {error}"));
            let all = lines.join("\n");
            assert_eq!(run.outcome, Outcome::Success, "{what}:\n{all}");
            assert!(all.contains(&format!("\"backend\":\"{backend}\"")), "{what}:\n{all}");
            let is_blocked = |line: &&String| line.contains("\"outcome\":\"blocked\"");
            let blocked = lines.iter().filter(is_blocked).count();
            assert_eq!(blocked > 250, mode != "off", "{what}: {blocked} attacks were blocked");
        }
    }
}

/// All models of that kind that the emulator has.
#[test]
#[ignore = "39 boots; run with --ignored"]
fn protects_by_an_alias_on_every_cpu_model() {
    let smap = ["Broadwell", "Skylake-Server", "Cascadelake-Server", "EPYC", "EPYC-Rome"];
    let pan = ["cortex-a76", "neoverse-n1"];
    let smap = smap.map(|model| (Target::X86_64, model, "smap"));
    let pan = pan.map(|model| (Target::Aarch64, model, "pan"));
    // On CPUs with PAN, and with E0PD, too.
    let ttbr0 = ["cortex-a53", "cortex-a57", "cortex-a72", "cortex-a76", "neoverse-n1", "max"];
    let ttbr0 = ttbr0.map(|model| (Target::Aarch64, model, "ttbr0"));
    for (target, model, backend) in smap.into_iter().chain(pan).chain(ttbr0) {
        for words in ["tests", "attack mode=batched", "attack"] {
            let machine = Machine {
                cpu_model: model.to_owned(),
                cpus: 4,
                memory_mib: 256,
                ..with_command_line(&format!("{words} backend={backend}"))
            };
            let what = format!("{model} {words}");
            let (run, lines) =
                run(target, &machine).unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(run.outcome, Outcome::Success, "{what}:\n{}", lines.join("\n"));
        }
    }
}

/// arm64's kernel is entered at EL1 or at EL2, and finds either interrupt controller.
#[test]
fn passes_its_tests_on_every_arm64_board() {
    for options in ["gic-version=2", "virtualization=off", "gic-version=2,virtualization=off"] {
        let board_options = options.to_owned();
        passes(
            Target::Aarch64,
            Machine { board_options, cpus: 4, ..with_command_line("tests later=8") },
        );
    }
}

#[test]
fn protection_is_claimed_only_where_it_is_enforced() {
    for target in Target::ALL {
        for (words, model, enforced) in [
            ("", "max", true),
            ("mode=off", "max", false),
            ("backend=mock mode=batched", "max", false),
            ("", older_model(target), true),
        ] {
            let machine = Machine { cpu_model: model.to_owned(), ..with_command_line(words) };
            let what = format!("{} {machine:?}", target.name());
            let (run, lines) =
                run(target, &machine).unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(run.outcome, Outcome::Success, "{what}");
            let claim = format!("\"enforced\":{enforced}");
            let claims = lines.iter().filter(|line| line.contains(&claim)).count();
            assert_eq!(claims, 1, "{what}:\n{}", lines.join("\n"));
        }
    }
}

#[test]
fn a_backend_is_refused_where_the_cpu_lacks_what_it_needs() {
    let cpu_model = older_model(Target::X86_64).to_owned();
    let machine = Machine { cpu_model, ..with_command_line("backend=pks") };
    ends_with(Target::X86_64, machine, Outcome::Refused, "this CPU has no PKS");
    let poe = with_command_line("backend=poe");
    ends_with(Target::Aarch64, poe, Outcome::Refused, "backend poe: ");
    let cpu_model = "cortex-a72".to_owned();
    let machine = Machine { cpu_model, ..with_command_line("backend=pan") };
    ends_with(Target::Aarch64, machine, Outcome::Refused, "backend ttbr0 needs none");
}

/// Ten seconds of random work on four CPUs with an attacker among them. The long form: `kpkeys run soak=600`.
#[test]
fn survives_a_short_soak() {
    for target in Target::ALL {
        for mode in ["batched", "fused"] {
            let machine = Machine { cpus: 4, ..with_command_line(&format!("soak=5 mode={mode}")) };
            let what = format!("{} {mode}", target.name());
            let (run, lines) =
                run(target, &machine).unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(run.outcome, Outcome::Success, "{what}:\n{}", lines.join("\n"));
            assert!(lines.iter().any(|line| line.contains("\"missing_frames\":0")), "{what}");
        }
    }
}

/// The whole matrix of the promise; minutes on a busy host, so not part of every run.
#[test]
#[ignore = "32 boots; run with --ignored"]
fn passes_its_tests_on_every_size() {
    for target in Target::ALL {
        for memory_mib in [128, 512, 3072, 8192] {
            for cpus in [1, 2, 4, 8] {
                passes_its_tests(target, memory_mib, cpus);
            }
        }
    }
}

/// Boots `machine`, expects `outcome`, and expects `text` in one of the last lines.
fn ends_with(target: Target, machine: Machine, outcome: Outcome, text: &str) {
    let what = format!("{} {machine:?}", target.name());
    let (run, _) = run(target, &machine).unwrap_or_else(|error| panic!("{what}: {error}"));
    let last = run.last.to_string();
    assert_eq!(run.outcome, outcome, "{what}: {last}");
    assert!(last.contains(text), "{what}: no \"{text}\" in: {last}");
}

/// The same with this command line on every target.
fn every_target_ends_with(command_line: &str, outcome: Outcome, text: &str) {
    for target in Target::ALL {
        ends_with(target, with_command_line(command_line), outcome, text);
    }
}

#[test]
fn boot_log_comes_quickly() {
    for target in Target::ALL {
        kernel(target);
        let start = Instant::now();
        ends_with(target, with_command_line(""), Outcome::Success, "page-table pages protected");
        assert!(start.elapsed() < Duration::from_secs(5), "took {:?}", start.elapsed());
    }
}

#[test]
fn every_unknown_word_is_listed() {
    every_target_ends_with("tests=x frob y=2", Outcome::Refused, "`frob` `y=2`");
}

#[test]
fn audited_violations_are_said_at_the_start_and_as_they_happen() {
    for target in Target::ALL {
        let words = with_command_line("tests=audited violations=audit");
        let (run, lines) = run(target, &words).unwrap_or_else(|error| panic!("{error}"));
        let all = lines.join("\n");
        assert_eq!(run.outcome, Outcome::Success, "{all}");
        for said in ["violations are audited, not refused", "audited: pa 0x", "violations: 1"] {
            assert!(all.contains(said), "no \"{said}\" in:\n{all}");
        }
    }
}

#[test]
fn a_filter_that_matches_no_test_fails() {
    every_target_ends_with("tests=nonesuch", Outcome::Failed, "nonesuch");
}

#[test]
fn too_little_memory_is_said() {
    for target in Target::ALL {
        let machine = Machine { memory_mib: 32, ..Machine::default() };
        ends_with(target, machine, Outcome::Refused, "at least 48 MiB");
    }
}

#[test]
fn missing_cpu_features_are_named() {
    let machine = Machine { cpu_model: "max,-smap,-smep".to_owned(), ..Machine::default() };
    ends_with(Target::X86_64, machine, Outcome::Refused, "lacks SMEP SMAP");
    let machine = Machine { cpu_model: "qemu32".to_owned(), ..Machine::default() };
    ends_with(Target::X86_64, machine, Outcome::Refused, "no 64-bit mode");
}

#[test]
fn a_panic_says_where_and_why() {
    every_target_ends_with("crash=panic", Outcome::Panicked, "main.rs");
    every_target_ends_with("crash=panic", Outcome::Panicked, "as the command line asked");
}

#[test]
fn a_stack_overflow_is_recognised() {
    every_target_ends_with("crash=stack-overflow", Outcome::Panicked, "stack overflow");
}

/// What ends the kernel in an open window closes it first: a panic, a stack that runs out, a fault of the window's own code, an error of the machine.
#[test]
fn a_kernel_that_ends_in_a_window_closes_it() {
    let backends = [
        (Target::X86_64, "pks"),
        (Target::X86_64, "smap"),
        (Target::Aarch64, "pan"),
        (Target::Aarch64, "ttbr0"),
    ];
    for (target, backend) in backends {
        for mode in ["fused", "batched"] {
            for way in ["panic", "stack-overflow", "fault", "error"] {
                let words = format!("backend={backend} mode={mode} crash={way}-in-window");
                let what = format!("{} {words}", target.name());
                let (run, lines) = run(target, &with_command_line(&words))
                    .unwrap_or_else(|error| panic!("{what}: {error}"));
                let all = lines.join("\n");
                assert_eq!(run.outcome, Outcome::Panicked, "{what}:\n{all}");
                let was_open = "in a window: page tables can be written: true";
                assert!(all.contains(was_open), "{what}:\n{all}");
                let is_closed = "at the end: enforced true, page tables can be written: false";
                assert!(all.contains(is_closed), "{what}:\n{all}");
            }
        }
    }
}

/// No gate has more stores, or keeps interrupts off for more instructions, than is documented. QEMU counts them.
#[test]
fn gates_are_as_short_as_is_said() {
    let number = |line: &str, name: &str| {
        let (_, behind) = line.split_once(&format!("\"{name}\":"))?;
        behind.split([',', '}']).next()?.parse::<usize>().ok()
    };
    for target in Target::ALL {
        // Whole tables copied, emptied, filled, and what is long otherwise.
        let words = "mode=fused scale=1000 count=0,2,8,11,15";
        let machine = Machine {
            memory_mib: 2304,
            cpus: 1,
            clock_by_instructions: true,
            time_limit: Duration::from_secs(180),
            ..with_command_line(words)
        };
        let (run, lines) =
            run(target, &machine).unwrap_or_else(|error| panic!("{}: {error}", target.name()));
        assert_eq!(run.outcome, Outcome::Success, "{}", lines.join("\n"));
        let counts = lines.iter().filter(|line| line.contains("\"type\":\"counts\""));
        let longest: Vec<_> = counts
            .filter_map(|line| {
                Some((number(line, "longest_window_stores")?, number(line, "longest_gate_ns")?))
            })
            .collect();
        assert_eq!(longest.len(), 5, "{}", lines.join("\n"));
        let stores = longest.iter().map(|(stores, _)| *stores).max().unwrap_or(0);
        let instructions = longest.iter().map(|(_, instructions)| *instructions).max().unwrap_or(0);
        println!(
            "{}: at most {stores} stores and {instructions} instructions in a gate",
            target.name()
        );
        assert!(stores > 0 && stores <= GATE_STORES, "{}: {stores} stores", target.name());
        assert!(
            instructions > 0 && instructions <= GATE_INSTRUCTIONS,
            "{}: {instructions} instructions",
            target.name()
        );
    }
}

#[test]
fn a_hang_is_killed_in_time_and_its_last_lines_kept() {
    for target in Target::ALL {
        kernel(target);
        let time_limit = Duration::from_secs(3);
        let machine = Machine { time_limit, ..with_command_line("crash=hang") };
        let start = Instant::now();
        let error = run(target, &machine).expect_err("a hang has no outcome");
        assert!(start.elapsed() < time_limit + Duration::from_secs(2));
        let text = error.to_string();
        assert!(matches!(error, Error::TimeLimit { .. }), "{text}");
        assert!(text.contains("2 CPUs up"), "{text}");
    }
}

#[test]
fn a_dying_emulator_is_quoted() {
    for target in Target::ALL {
        let machine = Machine { cpu_model: "nonesuch".to_owned(), ..Machine::default() };
        let text = run(target, &machine).expect_err("there is no such CPU model").to_string();
        assert!(text.contains("nonesuch"), "{text}");
    }
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
