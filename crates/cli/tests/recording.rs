//! `kpkeys trace record` around commands that do not make it easy: they change process groups and sessions,
//! leave daemons behind, are stopped, signalled and killed. What must hold is that nothing is different from
//! running them alone.
//!
//! Every test runs with each method that works here; perf needs root or CAP_PERFMON and a tracefs, and is
//! skipped, saying so, without.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

const KPKEYS: &str = env!("CARGO_BIN_EXE_kpkeys");
const METHODS: [&str; 2] = ["perf", "ptrace"];
/// What hangs is killed after so many seconds.
const PATIENCE_S: &str = "30";

fn methods() -> impl Iterator<Item = &'static str> {
    METHODS.into_iter().filter(|method| {
        let folder = tempfile::tempdir().expect("a folder");
        let allowed = record(method, folder.path(), &[], &["true"]).status.success();
        if !allowed {
            eprintln!("SKIPPED with {method}: it does not record here");
        }
        allowed
    })
}

fn recorder(method: &str, folder: &Path, options: &[&str], command: &[&str]) -> Command {
    let mut recorder = Command::new("timeout");
    recorder.args(["--foreground", "-s", "KILL", PATIENCE_S, KPKEYS, "trace", "record"]);
    recorder.args(["--method", method, "-o"]).arg(folder.join("trace")).args(options);
    recorder.arg("--").args(command);
    recorder
}

fn record(method: &str, folder: &Path, options: &[&str], command: &[&str]) -> Output {
    recorder(method, folder, options, command).output().expect("the recorder starts")
}

fn info(folder: &Path) -> Value {
    let trace = folder.join("trace");
    let info = Command::new(KPKEYS).args(["trace", "info", "--format", "json"]).arg(trace).output();
    serde_json::from_slice(&info.expect("info runs").stdout).expect("one JSON object")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Waits until `condition` holds.
fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < Duration::from_secs(20), "waited in vain for {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_command_ends_and_prints_as_it_does_alone() {
    let commands: [&[&str]; 10] = [
        &["timeout", "20", "sh", "-c", "sleep 0.3; echo slept; exit 3"],
        &["timeout", "19", "timeout", "18", "sh", "-c", "exit 7"],
        &["timeout", "0.2", "sleep", "5"],
        &["setsid", "-w", "sh", "-c", "echo in; exit 4"],
        &["bash", "-c", "setsid true; echo after"],
        &["bash", "-c", "set -m; sleep 0.1 & wait; (exit 6)"],
        &["su", "-s", "/bin/sh", "-c", "echo $0; exit 5"],
        &["bash", "-c", "set -o pipefail; seq 1000 | tail -1 | (cat; exit 9)"],
        &["sh", "-c", "kill -SEGV $$"],
        &["sh", "-c", "(sleep 0.2; kill -CONT $$) & kill -STOP $$; wait; echo continued"],
    ];
    for method in methods() {
        for command in commands {
            let folder = tempfile::tempdir().expect("a folder");
            let alone = Command::new("sh")
                .args(["-c", "\"$@\"; exit $?", "sh"])
                .args(command)
                .stdin(Stdio::null())
                .output();
            let alone = alone.expect("it runs alone");
            let recorded =
                recorder(method, folder.path(), &[], command).stdin(Stdio::null()).output();
            let recorded = recorded.expect("the recorder starts");
            let said = text(&recorded.stderr);
            assert_eq!(recorded.status.code(), alone.status.code(), "{method} {command:?}: {said}");
            assert_eq!(text(&recorded.stdout), text(&alone.stdout), "{method} {command:?}");
            let end = &info(folder.path())["end"];
            let (code, signal) = (end["exit_code"].as_i64(), end["signal"].as_i64());
            let told = code.or(signal.map(|signal| signal + 128)).map(|code| code as i32);
            assert_eq!(told, alone.status.code(), "{method} {command:?}: {end}");
            assert_eq!(end["unseen"], Value::Array(Vec::new()), "{method} {command:?}");
        }
    }
}

#[test]
fn every_process_is_recorded_whatever_its_group() {
    let script = "timeout 9 /bin/true; setsid /bin/true; set -m; /bin/true & wait; exit 0";
    for method in methods() {
        let folder = tempfile::tempdir().expect("a folder");
        let output = record(method, folder.path(), &[], &["bash", "-c", script]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        // bash, timeout and what it runs, what setsid becomes, and the job.
        let counts = &info(folder.path())["summary"]["counts"];
        assert_eq!(
            (&counts["processes"], &counts["exits"]),
            (&5.into(), &5.into()),
            "{method}: {counts}"
        );
    }
}

#[test]
fn what_outlives_the_command_is_left_alone_and_named() {
    for method in methods() {
        let folder = tempfile::tempdir().expect("a folder");
        let [began, go_on, sign] = ["began", "go-on", "alive"].map(|name| folder.path().join(name));
        // A daemon: it leaves the session and its parents end. It maps memory only after the recording.
        let daemon = format!(
            "echo > {}; while [ ! -e {} ]; do sleep 0.01; done; /bin/true && echo done > {}",
            began.display(),
            go_on.display(),
            sign.display()
        );
        let script = format!(
            "(setsid sh -c '{daemon}' > /dev/null 2>&1 &); while [ ! -e {} ]; do sleep 0.01; done; exit 8",
            began.display()
        );
        let output = record(method, folder.path(), &[], &["sh", "-c", &script]);
        assert_eq!(output.status.code(), Some(8), "{}", text(&output.stderr));
        fs::write(&go_on, "").expect("the daemon's sign to go on");
        let said = text(&output.stderr);
        assert!(said.contains("outlived the command") && said.contains("sh ("), "{method}: {said}");
        let unseen = &info(folder.path())["end"]["unseen"][0];
        assert_eq!(unseen["cause"], "survived", "{method}");
        assert!(unseen["processes"].as_u64() >= Some(1), "{method}: {unseen}");
        wait_for("the daemon's sign of life", || sign.exists());
    }
}

#[test]
fn a_killed_recorder_does_not_take_the_command_along() {
    for method in methods() {
        let folder = tempfile::tempdir().expect("a folder");
        let (began, sign) = (folder.path().join("began"), folder.path().join("alive"));
        let script = format!(
            "echo > {}; sleep 1; /bin/true && echo done > {}",
            began.display(),
            sign.display()
        );
        let mut recorder = Command::new(KPKEYS)
            .args(["trace", "record", "--method", method, "-o"])
            .arg(folder.path().join("trace"))
            .args(["--", "sh", "-c", &script])
            .stderr(Stdio::null())
            .spawn()
            .expect("the recorder starts");
        wait_for("the command", || began.exists());
        recorder.kill().expect("killed");
        recorder.wait().expect("reaped");
        wait_for("the command's sign of life", || sign.exists());
    }
}

#[test]
fn a_signal_is_the_command_s_and_starts_nothing_again() {
    let script = "echo start >> $0; trap 'echo trapped; exit 9' $1; while :; do sleep 0.1; done";
    for method in methods() {
        for signal in ["TERM", "INT", "HUP", "USR1"] {
            let folder = tempfile::tempdir().expect("a folder");
            let starts = folder.path().join("starts");
            let recorder = with_no_signal_ignored(KPKEYS)
                .args(["trace", "record", "--compare", "--method", method, "-o"])
                .arg(folder.path().join("trace"))
                .args(["--", "sh", "-c", script])
                .args([&starts, Path::new(signal)])
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .expect("the recorder starts");
            wait_for("the command", || starts.exists());
            thread::sleep(Duration::from_millis(300));
            send(signal, recorder.id());
            if signal == "USR1" {
                // It does not ask for an end: the command runs again, for the comparison.
                let twice =
                    || fs::read_to_string(&starts).is_ok_and(|starts| starts.lines().count() == 2);
                wait_for("the second run", twice);
                thread::sleep(Duration::from_millis(300));
                send(signal, recorder.id());
            }
            let output = recorder.wait_with_output().expect("it ends");
            assert_eq!(
                output.status.code(),
                Some(9),
                "{method} {signal}: {}",
                text(&output.stderr)
            );
            let expected = if signal == "USR1" { 2 } else { 1 };
            assert_eq!(text(&output.stdout), "trapped\n".repeat(expected), "{method} {signal}");
            let started = fs::read_to_string(&starts).expect("it started").lines().count();
            assert_eq!(started, expected, "{method} {signal}");
        }
    }
}

/// A program as a shell at a terminal starts it. Tests may run under `nohup`, or behind a shell's `&`, and who ignores a signal has it ignored by those it starts.
fn with_no_signal_ignored(program: &str) -> Command {
    let mut command = Command::new("env");
    command.args(["--default-signal", program]);
    command
}

fn send(signal: &str, process: u32) {
    let sent = Command::new("kill").args(["-s", signal, &process.to_string()]).status();
    assert!(sent.expect("kill runs").success());
}

#[test]
fn a_second_request_ends_the_recording_and_leaves_the_command_alone() {
    for method in methods() {
        let folder = tempfile::tempdir().expect("a folder");
        let (began, sign) = (folder.path().join("began"), folder.path().join("alive"));
        let script = "trap '' TERM; echo > $0; sleep 3; /bin/true && echo > $1";
        // Not a pipe: the command has it too, and would keep it open.
        let said = folder.path().join("said");
        let mut recorder = Command::new(KPKEYS)
            .args(["trace", "record", "--method", method, "-o"])
            .arg(folder.path().join("trace"))
            .args(["--", "sh", "-c", script])
            .args([&began, &sign])
            .stderr(fs::File::create(&said).expect("a file"))
            .spawn()
            .expect("the recorder starts");
        wait_for("the command", || began.exists());
        send("TERM", recorder.id());
        thread::sleep(Duration::from_millis(800));
        send("TERM", recorder.id());
        recorder.wait().expect("it ends");
        assert!(!sign.exists(), "{method}: the recording went on to the command's end");
        let said = fs::read_to_string(said).expect("what it said");
        assert!(said.contains("was still running"), "{method}: {said}");
        assert_eq!(info(folder.path())["end"]["recorded"]["system_ns"], Value::Null, "{method}");
        wait_for("the command's sign of life", || sign.exists());
    }
}

/// A shell on a terminal of its own.
struct Terminal {
    script: Child,
    keys: ChildStdin,
    screen: Arc<Mutex<String>>,
    /// How much of the screen was expected already.
    seen: usize,
}

impl Terminal {
    fn open() -> Option<Self> {
        let mut script = with_no_signal_ignored("script")
            .args(["-q", "-c", "bash --norc --noediting -i", "/dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .ok()?;
        let screen = Arc::new(Mutex::new(String::new()));
        let (mut output, written) = (script.stdout.take()?, Arc::clone(&screen));
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut bytes) {
                written.lock().expect("no panic").push_str(&text(&bytes[..count]));
            }
        });
        let keys = script.stdin.take()?;
        Some(Self { script, keys, screen, seen: 0 })
    }

    fn type_in(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).expect("the terminal reads");
        self.keys.flush().expect("the terminal reads");
    }

    /// Waits until `text` appears after everything that was expected before.
    fn expect(&mut self, text: &str) {
        let began = Instant::now();
        loop {
            let screen = self.screen.lock().expect("no panic").clone();
            if let Some(at) = screen[self.seen..].find(text) {
                self.seen += at + text.len();
                return;
            }
            let late = began.elapsed() > Duration::from_secs(20);
            assert!(!late, "`{text}` does not appear on:\n{screen}");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // A terminal that is closed already needs nothing.
        let _ = self.keys.write_all(b"exit\nexit\n");
        let _ = self.script.kill();
        let _ = self.script.wait();
    }
}

#[test]
fn a_terminal_stays_usable() {
    for method in methods() {
        let folder = tempfile::tempdir().expect("a folder");
        let trace = folder.path().join("trace");
        let record = format!("{KPKEYS} trace record --method {method} -o {}", trace.display());
        let Some(mut terminal) = Terminal::open() else {
            eprintln!("SKIPPED: there is no `script` here");
            return;
        };
        terminal.expect("bash");
        terminal.type_in(&format!("{record} -- cat\n"));
        thread::sleep(Duration::from_millis(700));
        terminal.type_in("one\n");
        terminal.expect("one\r\none");
        // Ctrl-Z stops both, and the shell has the terminal back.
        terminal.type_in("\x1a");
        terminal.expect("Stopped");
        terminal.type_in("echo shell-$((40 + 2))\n");
        terminal.expect("shell-42");
        terminal.type_in("fg\n");
        terminal.expect("-- cat");
        terminal.type_in("two\n");
        terminal.expect("two\r\ntwo");
        // Ctrl-C ends the command; the recorder finishes the trace.
        terminal.type_in("\x03");
        terminal.expect("was killed by signal 2");
        terminal.type_in("echo code-$?\n");
        terminal.expect("code-130");
        // A shell with job control takes the terminal and gives it back.
        terminal.type_in(&format!("{record} -- bash -c 'set -m; (exit 3); exit 5'\n"));
        terminal.expect("exited with 5");
        terminal.type_in("echo code-$?\n");
        terminal.expect("code-5");
        // A command that leaves the foreground group is reached all the same.
        terminal.type_in(&format!("{record} -- timeout 30 sleep 20\n"));
        thread::sleep(Duration::from_millis(700));
        terminal.type_in("\x03");
        terminal.expect("the command ");
        terminal.type_in("echo still-$((40 + 3))\n");
        terminal.expect("still-43");
    }
}

/// A 32-bit program that asks for a change to no directory and exits with 7.
fn write_32_bit_program(path: &Path) {
    const CODE: [u8; 21] = [
        0xb8, 12, 0, 0, 0, 0x31, 0xdb, 0xcd, 0x80, // chdir(0)
        0xb8, 1, 0, 0, 0, 0xbb, 7, 0, 0, 0, 0xcd, 0x80, // exit(7)
    ];
    const BASE: u32 = 0x0804_8000;
    let mut file = b"\x7fELF\x01\x01\x01".to_vec();
    file.resize(16, 0);
    let halves = |file: &mut Vec<u8>, numbers: &[u16]| {
        numbers.iter().for_each(|number| file.extend(number.to_le_bytes()));
    };
    let words = |file: &mut Vec<u8>, numbers: &[u32]| {
        numbers.iter().for_each(|number| file.extend(number.to_le_bytes()));
    };
    halves(&mut file, &[2, 3]);
    words(&mut file, &[1, BASE + 84, 52, 0, 0]);
    halves(&mut file, &[52, 32, 1, 0, 0, 0]);
    let size = 84 + CODE.len() as u32;
    words(&mut file, &[1, 0, BASE, BASE, size, size, 5, 4096]);
    file.extend(CODE);
    fs::write(path, file).expect("a program");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("executable");
}

#[test]
fn calls_of_32_bit_programs_are_missing_aloud() {
    let folder = tempfile::tempdir().expect("a folder");
    let program = folder.path().join("program");
    write_32_bit_program(&program);
    if Command::new(&program).status().ok().and_then(|status| status.code()) != Some(7) {
        eprintln!("SKIPPED: 32-bit programs of x86 do not run here");
        return;
    }
    for method in methods() {
        let output = record(method, folder.path(), &[], &[program.to_str().expect("a path")]);
        assert_eq!(output.status.code(), Some(7), "{method}");
        assert!(
            text(&output.stderr).contains("calls of 32-bit programs were not recorded"),
            "{method}"
        );
        let info = info(folder.path());
        assert!(info["end"]["foreign_calls"].as_u64() >= Some(1), "{method}");
        assert!(info["caveats"].to_string().contains("32-bit"), "{method}: {}", info["caveats"]);
    }
}

#[test]
fn what_ptrace_cannot_see_is_not_zero() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = record("ptrace", folder.path(), &[], &["sh", "-c", "/bin/true; /bin/true"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let told = info(folder.path());
    let (counts, costs) = (&told["summary"]["counts"], &told["summary"]["costs"]);
    for unseen in ["write_faults", "protection_faults", "kernel_faults"] {
        assert_eq!(counts[unseen], Value::Null, "{unseen}");
    }
    for unseen in ["fault_ns", "call_ns", "fork_ns", "exec_ns", "cpu_ns"] {
        assert_eq!(costs[unseen], Value::Null, "{unseen}");
    }
    assert_eq!(told["end"]["teardown_ns"], Value::Null);
    let table =
        Command::new(KPKEYS).args(["trace", "info"]).arg(folder.path().join("trace")).output();
    let table = text(&table.expect("info runs").stdout);
    for row in ["  writes", "  by the kernel", "cost", "freeing memory at exit"] {
        let line = table.lines().find(|line| line.trim_end().contains(row)).expect(row);
        assert!(line.contains("not recorded"), "{line}");
    }
    if counts["faults"].is_null() {
        eprintln!("SKIPPED: a replay, as faults may not be recorded here");
        return;
    }
    // Results made from it say what they do not know.
    for (format, inside) in [("json", "\"notices\""), ("table", "note: ")] {
        let mut bench = Command::new(KPKEYS);
        bench.args(["bench", "--quick", "--blocks", "2", "--modes", "batched", "--format", format]);
        let output =
            bench.arg("--trace").arg(folder.path().join("trace")).output().expect("bench runs");
        let said = text(&output.stdout).split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(said.contains(inside), "{said}");
        assert!(said.contains("whether a page fault was a write was not recorded"), "{said}");
        assert!(said.contains("durations were not recorded"), "{said}");
    }
}

#[test]
fn doctor_and_recorder_agree_about_perf() {
    let folder = tempfile::tempdir().expect("a folder");
    let doctor =
        Command::new(KPKEYS).args(["doctor", "--format", "json"]).output().expect("it runs");
    let doctor: Value = serde_json::from_slice(&doctor.stdout).expect("JSON");
    let findings = doctor["findings"].as_array().expect("findings");
    let perf = findings.iter().find(|finding| finding["name"] == "perf events").expect("a finding");
    let output = record("perf", folder.path(), &[], &["true"]);
    assert_eq!(perf["status"] == "ok", output.status.success(), "{perf} {}", text(&output.stderr));
    if !output.status.success() {
        let reason = perf["found"].as_str().expect("a reason");
        assert!(text(&output.stderr).contains(reason), "{reason}: {}", text(&output.stderr));
    }
}

#[test]
fn a_program_that_would_lose_its_privilege_is_not_run_without_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = |name: &str| folder.path().join(name);
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode));
    mode(folder.path(), 0o777).expect("a mode");
    let (id, kpkeys) = (place("id"), place("kpkeys"));
    let id_here = ["/usr/bin/id", "/bin/id"].into_iter().find(|id| Path::new(id).exists());
    fs::copy(id_here.expect("id"), &id).expect("a copy");
    fs::copy(KPKEYS, &kpkeys).expect("a copy");
    mode(&id, 0o4755).expect("a mode");
    mode(&kpkeys, 0o755).expect("a mode");
    let id = id.to_str().expect("a path");
    let as_nobody = |command: &[&str]| {
        let drop = ["--reuid", "65534", "--regid", "65534", "--clear-groups"];
        let output = Command::new("setpriv").args(drop).args(command).output();
        output.map(|output| (output.status.code(), text(&output.stdout), text(&output.stderr)))
    };
    if as_nobody(&[id, "-u"]).ok().map(|(_, said, _)| said).as_deref() != Some("0\n") {
        eprintln!("SKIPPED: not root, or nothing is set-user-id here");
        return;
    }
    let trace = place("trace");
    let record = |command: &[&str]| {
        let kpkeys = kpkeys.to_str().expect("a path");
        let trace = trace.to_str().expect("a path");
        let mut all = vec![kpkeys, "trace", "record", "--method", "ptrace", "-o", trace, "--"];
        all.extend(command);
        as_nobody(&all).expect("setpriv runs")
    };
    let (code, said, error) = record(&[id, "-u"]);
    assert_eq!((code, said.as_str()), (Some(126), ""), "{error}");
    assert!(error.contains(&format!("`{id}` is set-user-id")), "{error}");
    assert!(!trace.exists(), "nothing was recorded");
    // Deeper in the tree it runs as it does alone, and is named.
    let (code, said, error) = record(&["sh", "-c", &format!("{id} -u; exit 3")]);
    assert_eq!((code, said.as_str()), (Some(3), "0\n"), "{error}");
    assert!(error.contains("take its privilege") && error.contains("id ("), "{error}");
}
