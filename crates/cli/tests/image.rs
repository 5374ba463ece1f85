//! `kpkeys image`: the disk that it writes boots on firmware, from a USB stick, with nothing of the emulator's own to help.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use kpkeys_emulator::{Firmware, Line, Machine, Target, boot_medium};

fn image(name: &str, arguments: &[&str]) -> PathBuf {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let image = Command::new(env!("CARGO_BIN_EXE_kpkeys"))
        .args(["image", "--out", file.to_str().expect("a path of ours")])
        .args(arguments)
        .output()
        .expect("the program starts");
    assert!(image.status.success(), "{}", String::from_utf8_lossy(&image.stderr));
    file
}

/// What a boot printed, and how long it took.
struct Boot {
    lines: Vec<String>,
    took: Duration,
}

impl Boot {
    /// Until the `ends`-th time that a kernel says how it ended.
    fn of(target: Target, disk: &Path, machine: &Machine, ends: usize) -> Boot {
        Self::until(target, disk, machine, ends, "{\"type\":\"end\"")
    }

    fn until(target: Target, disk: &Path, machine: &Machine, times: usize, last: &str) -> Boot {
        let (_, firmware) = target.debian_firmware();
        Self::by(target, &firmware, disk, machine, times, last)
    }

    fn by(
        target: Target,
        firmware: &Firmware,
        disk: &Path,
        machine: &Machine,
        times: usize,
        last: &str,
    ) -> Boot {
        let (mut lines, mut seen) = (Vec::new(), 0);
        let took = boot_medium(target, firmware, disk, machine, &mut |line| {
            let (Line::Record(text) | Line::Log(text)) = line;
            lines.push(text.to_owned());
            seen += usize::from(text.contains(last));
            if seen == times { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        let took = took.unwrap_or_else(|error| panic!("{error}\n{}", lines.join("\n")));
        assert_eq!(seen, times, "\n{}", lines.join("\n"));
        Boot { lines, took }
    }

    #[track_caller]
    fn says(&self, what: &str) {
        let said = self.lines.iter().any(|line| line.contains(what));
        assert!(said, "no \"{what}\" in:\n{}", self.lines.join("\n"));
    }

    fn count(&self, what: &str) -> usize {
        self.lines.iter().filter(|line| line.contains(what)).count()
    }
}

fn machine() -> Machine {
    Machine {
        cpus: 4,
        memory_mib: 1024,
        time_limit: Duration::from_secs(600),
        ..Machine::default()
    }
}

/// One disk for both machines: every attack with protection on, then, after a restart, with protection off, then the tests.
#[test]
#[ignore = "needs firmware, and takes minutes: `cargo xtask image`"]
fn one_disk_starts_both_machines_and_restarts_them() {
    let lines = ["--run", "attack", "--run", "attack mode=off", "--run", "tests"];
    let disk = image("both.img", &lines);
    let mib = disk.metadata().expect("it was written").len() as f64 / f64::from(1 << 20);
    println!("the disk: {mib:.1} MiB");
    for (target, backend) in [(Target::X86_64, "pks"), (Target::Aarch64, "pan")] {
        let boot = Boot::of(target, &disk, &machine(), 3);
        boot.says(&format!(
            "\"backend\":\"{backend}\",\"mode\":\"fused\",\"keys\":\"one\",\"enforced\":true"
        ));
        boot.says("\"mode\":\"off\",\"keys\":\"one\",\"enforced\":false");
        // Blocked with protection, and successful without: the attacks are real.
        assert!(boot.count("\"mode\":\"fused\",\"target\"") > 300, "{:?}", boot.lines.last());
        assert!(boot.count("\"mode\":\"off\",\"target\"") > 100, "{:?}", boot.lines.last());
        assert!(
            boot.lines
                .iter()
                .filter(|line| line.contains("\"mode\":\"off\",\"target\""))
                .any(|line| line.contains("succeeded"))
        );
        assert_eq!(boot.count(",\"broken\":0}"), 2);
        boot.says("\"failed\":0}");
        assert_eq!(boot.count("{\"type\":\"end\",\"outcome\":\"success\"}"), 3);
        println!("{}: three boots in {:.1} s", target.name(), boot.took.as_secs_f64());
    }
}

/// As servers are, without a device tree: with the series' interrupt controller and with the one before, from EL1 and from EL2.
#[test]
#[ignore = "needs firmware, and takes minutes: `cargo xtask image`"]
fn a_machine_of_acpi_alone_is_started() {
    let disk = image("acpi.img", &["--arch", "aarch64", "--run", "attack", "--run", "tests"]);
    for board in ["acpi=on", "acpi=on,virtualization=on", "acpi=on,gic-version=2"] {
        let machine = Machine { board_options: board.into(), ..machine() };
        let boot = Boot::of(Target::Aarch64, &disk, &machine, 2);
        boot.says("the machine is read from ACPI's tables");
        boot.says("4 CPUs up");
        boot.says("\"backend\":\"pan\",\"mode\":\"fused\",\"keys\":\"one\",\"enforced\":true");
        assert_eq!(boot.count(",\"broken\":0}"), 1, "{board}");
        boot.says("\"failed\":0}");
        assert_eq!(boot.count("{\"type\":\"end\",\"outcome\":\"success\"}"), 2, "{board}");
    }
}

/// From EL2, as many servers start, and with SMAP for a backend.
#[test]
#[ignore = "needs firmware, and takes minutes: `cargo xtask image`"]
fn other_levels_and_backends_start_too() {
    let lines =
        ["--run", "x86_64: tests=protection backend=smap", "--run", "aarch64: tests=protection"];
    let disk = image("others.img", &lines);
    let boot = Boot::of(Target::X86_64, &disk, &machine(), 1);
    boot.says("\"backend\":\"smap\"");
    boot.says("\"outcome\":\"success\"");
    let from_el2 = Machine { board_options: "virtualization=on".into(), ..machine() };
    let boot = Boot::of(Target::Aarch64, &disk, &from_el2, 1);
    boot.says("\"outcome\":\"success\"");
}

/// Nobody at the keyboard: the menu's default is started.
#[test]
#[ignore = "needs firmware, and takes minutes: `cargo xtask image`"]
fn a_disk_without_settings_asks_and_does_not_wait_for_ever() {
    let disk = image("menu.img", &["--arch", "x86_64"]);
    let boot = Boot::of(Target::X86_64, &disk, &machine(), 1);
    boot.says("  1  attack");
    boot.says("starting the kernel: attack");
    boot.says("\"outcome\":\"success\"");
}

/// What comes over the serial line of boots that measure is a run, which `kpkeys bench` prints as any other. Short: three boots of one row.
#[test]
#[ignore = "needs firmware, and takes minutes: `cargo xtask image`"]
fn what_a_machine_says_is_a_run() {
    let modes = ["off label=off/0", "off label=aa/0", "fused label=fused/0", "fused"];
    let words = |mode| match mode {
        "fused" => "count=4 scale=1000 mode=fused".to_owned(),
        mode => format!("bench=4 scale=1000 iterations=2 mode={mode}"),
    };
    let lines: Vec<String> =
        modes.into_iter().flat_map(|mode| ["--run".to_owned(), words(mode)]).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let disk = image("bench.img", &[&["--arch", "x86_64"], &lines[..]].concat());
    let boot = Boot::of(Target::X86_64, &disk, &machine(), modes.len());
    let log = disk.with_extension("log");
    std::fs::write(&log, boot.lines.join("\r\n")).expect("the log is written");
    let output = Command::new(env!("CARGO_BIN_EXE_kpkeys"))
        .args(["bench", "--format", "json", "--import"])
        .arg(&log)
        .output()
        .expect("the program starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let table: serde_json::Value = serde_json::from_str(&text).unwrap_or_else(|error| {
        panic!("{error}: {text}{}", String::from_utf8_lossy(&output.stderr))
    });
    assert_eq!((&table["on"], &table["backend"]), (&"machine".into(), &"pks".into()), "{text}");
    let row = &table["rows"][0];
    assert!(row["baseline"].as_f64().is_some_and(|ns| ns > 0.0), "{text}");
    assert!(row["modes"]["fused"]["counts"]["windows"].as_f64().is_some_and(|n| n > 0.0), "{text}");
}

#[test]
fn what_cannot_be_written_is_refused_before_anything_is_built() {
    for (arguments, word) in [(["--arch", "riscv64"], "riscv64"), (["--run", "# attack"], "--run")]
    {
        let output = Command::new(env!("CARGO_BIN_EXE_kpkeys"))
            .args(["image", "--out", "/nonesuch/disk.img"])
            .args(arguments)
            .output()
            .expect("the program starts");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && text.contains(word), "{text}");
    }
}
