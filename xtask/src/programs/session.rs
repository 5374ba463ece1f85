//! A person's session at the shell: by hand, or typed by a script and drawn.

use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::process::{ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use kpkeys_emulator::{Kernel, Machine, Target};

use super::real::Real;
use crate::command;
use crate::workspace;

/// Memory of the machine.
const MEMORY_MIB: u32 = 1024;
/// What is typed.
const TYPED: [&str; 5] = [
    "uname -sm; cd /tmp",
    "cat /work/hello.c",
    "gcc -O2 /work/hello.c && ./a.out",
    "python3 -c 'import sys; print(sys.version)'",
    "exit",
];
/// The shell waits for a line.
const PROMPT: &str = "# ";
/// What of the kernel's own lines is shown.
const SHOWN: [&str; 2] = ["backend ", "mode "];
/// Until the shell says something.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two keys.
const KEY: Duration = Duration::from_millis(20);

/// A shell, on this terminal.
pub fn shell(real: &Real<'_>) -> Result<()> {
    let memory = MEMORY_MIB.to_string();
    let mut run =
        command::cargo(&["run", "--quiet", "--release", "--package=kpkeys-cli", "--", "run"]);
    run.args([
        "--on",
        real.kernel.target().name(),
        "--mode",
        real.mode.name(),
        "--smp",
        "2",
        "--memory",
        &memory,
    ]);
    command::run(run.arg("--rootfs").arg(real.archive).args(["--", "sh"]))
}

/// Types a session and draws it, in the book's pictures.
pub fn record(real: &Real<'_>) -> Result<()> {
    let Real { kernel, archive, mode } = *real;
    let target = kernel.target();
    let machine = Machine {
        cpus: 2,
        memory_mib: MEMORY_MIB,
        command_line: format!("mode={} interactive -- sh", mode.name()),
        initramfs: Some(archive.to_owned()),
        ..Machine::default()
    };
    let lines = Session::start(kernel, &machine)?.types(&TYPED)?;
    let command = format!("$ kpkeys run --on {} --rootfs real.cpio -- sh", target.name());
    let picture = draw(&command, &lines);
    let file = format!("docs/src/pictures/shell-{}.svg", architecture(target));
    fs::write(workspace::root().join(&file), picture)?;
    println!("{file}");
    Ok(())
}

fn architecture(target: Target) -> &'static str {
    target.name().trim_start_matches("qemu-")
}

/// A running machine with a shell.
struct Session {
    emulator: std::process::Child,
    keys: ChildStdin,
    says: Receiver<Vec<u8>>,
    said: String,
    /// How much of it was there when a line was last typed.
    waited_for: usize,
}

impl Session {
    fn start(kernel: &Kernel, machine: &Machine) -> Result<Self> {
        let mut command = kernel.command(machine)?;
        let mut emulator = command.stdin(Stdio::piped()).stderr(Stdio::inherit()).spawn()?;
        let keys = emulator.stdin.take().context("the emulator takes no keys")?;
        let mut serial = emulator.stdout.take().context("the emulator has no serial line")?;
        let (sender, says) = channel();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(len) = serial.read(&mut bytes)
                && len > 0
                && sender.send(bytes[..len].to_vec()).is_ok()
            {}
        });
        Ok(Self { emulator, keys, says, said: String::new(), waited_for: 0 })
    }

    /// Types lines, each when the shell waits for one; what was on the terminal when the machine has ended.
    fn types(mut self, lines: &[&str]) -> Result<Vec<String>> {
        for line in lines {
            self.wait(|said| said.contains('\n') && said.ends_with(PROMPT))?;
            self.waited_for = self.said.len();
            for key in line.bytes().chain([b'\r']) {
                self.keys.write_all(&[key])?;
                self.keys.flush()?;
                std::thread::sleep(KEY);
            }
        }
        self.wait(|said| said.contains("\"type\":\"program\""))?;
        ensure!(self.emulator.wait()?.code().is_some(), "the emulator was killed");
        Ok(shown(&self.said))
    }

    fn wait(&mut self, is_enough: impl Fn(&str) -> bool) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !is_enough(&self.said[self.waited_for..]) {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(bytes) = self.says.recv_timeout(left) else {
                bail!("the shell said nothing more after: {}", self.said)
            };
            self.said.push_str(&String::from_utf8_lossy(&bytes));
        }
        Ok(())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // It has ended, or nobody waits for it.
        let _ = self.emulator.kill();
    }
}

/// Of what was on the serial line what a person wants to see: the shell's lines, and which protection there is.
fn shown(said: &str) -> Vec<String> {
    let said = said.replace('\r', "").replace('\t', "    ");
    let mut lines = Vec::new();
    for line in said.lines().take_while(|line| !line.contains("\"type\":\"program\"")) {
        let is_kernels = line.starts_with('{') && line.contains("\"type\":")
            || line.starts_with("[ ") && !SHOWN.iter().any(|part| line.contains(part));
        if !is_kernels {
            lines.push(line.to_owned());
        }
    }
    lines
}

/// A terminal with these lines.
fn draw(command: &str, lines: &[String]) -> String {
    /// In letters, of so many tenths of a point.
    const WIDTH: usize = 100;
    const LETTER_TENTHS: usize = 84;
    const LINE: usize = 19;
    const MARGIN: usize = 16;
    let lines: Vec<_> = std::iter::once(command).chain(lines.iter().map(String::as_str)).collect();
    let width = WIDTH * LETTER_TENTHS / 10 + 2 * MARGIN;
    let height = lines.len() * LINE + 2 * MARGIN;
    let mut svg = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" xml:space="preserve" role="img" aria-label="A shell on hardened page tables">
<style>text {{ font: 14px ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; fill: #d7dae0; white-space: pre }} .typed {{ fill: #fff; font-weight: bold }} .kernel {{ fill: #8bc48a }}</style>
<rect width="{width}" height="{height}" rx="8" fill="#1d2026"/>
"##
    );
    for (number, line) in lines.iter().enumerate() {
        let y = MARGIN + LINE * number + 14;
        let class = class(line);
        let line: String = line.chars().take(WIDTH).collect();
        let line = line.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let _ = writeln!(svg, r#"<text x="{MARGIN}" y="{y}"{class}>{line}</text>"#);
    }
    svg + "</svg>\n"
}

fn class(line: &str) -> &'static str {
    match line.get(..2) {
        Some("# " | "$ ") => r#" class="typed""#,
        Some("[ ") => r#" class="kernel""#,
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_own_lines_are_left_out() {
        let said = "[    0.1] CPU 0: backend pks, verified\r\n{\"type\":\"boot\"}\r\n[    0.2] memory: 3\r\n# echo a\r\na\r\n# exit\r\n{\"type\":\"program\",\"status\":0}\r\n[ 9.0] mode";
        assert_eq!(
            shown(said),
            ["[    0.1] CPU 0: backend pks, verified", "# echo a", "a", "# exit"]
        );
    }

    #[test]
    fn what_is_drawn_is_text() {
        let svg = draw("$ run", &["# a < b && c".to_owned(), "b > c".to_owned()]);
        assert!(svg.contains("class=\"typed\"># a &lt; b &amp;&amp; c</text>"));
        assert!(svg.contains(">b &gt; c</text>") && svg.ends_with("</svg>\n"));
    }
}
