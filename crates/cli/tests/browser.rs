//! The page of `kpkeys report` in a real browser: Chromium without a screen reads every number, presses every button and takes pictures.
//!
//! The page is opened from a file, with a probe before its own script and one behind it. What the probes saw is an element of the document
//! that the browser prints. Without Chromium the test says that it checked nothing; `cargo xtask browser` installs it and keeps the pictures.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// The widths of a desk, a tablet and a phone, in pixels.
const WIDTHS: [u32; 3] = [1280, 768, 400];
/// Height that holds a whole page, in pixels.
const HEIGHT: u32 = 9000;
/// A full run, kept: all rows, modes and parts, blocks and counts.
const RUN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/results/runs/parts.tar.gz");
/// Most bytes of a page.
const LARGEST: usize = 1_000_000;

/// Before the page's own script: what goes wrong there.
const BEFORE: &str = "<head><script>\
window.seen = { errors: [] };
window.addEventListener('error', (event) => seen.errors.push(String(event.message)));
console.error = (...words) => seen.errors.push(words.join(' '));
</script>";

/// Behind it: what a person would see and press.
const BEHIND: &str = r##"<script>
const data = JSON.parse(document.getElementById("data").textContent);
const at = (path) => path.split("/").slice(1).reduce((value, key) => value?.[key], data);
// A number as people read it is the field's, at some unit, to within half of its last digit.
const reads = (text, value) => {
  const shown = text.replace(/,/g, "").replace("\u2212", "-").match(/-?\d+(\.(\d+))?(e(-?\d+))?/);
  if (!shown) return false;
  const half = 0.5001 * 10 ** (Number(shown[4] ?? 0) - (shown[2] ?? "").length);
  const units = [1, 100, 1e-3, 1e-6, 1e-9, 1e3, 1e6, 1e9];
  return units.some((unit) => Math.abs(Number(shown[0]) - value * unit) <= half);
};
seen.numbers = 0;
seen.wrong = [];
for (const cell of document.querySelectorAll("[data-path]")) {
  const field = at(cell.dataset.path);
  seen.numbers += 1;
  if (Number(cell.dataset.value) !== field || !reads(cell.textContent, field)) {
    seen.wrong.push(`${cell.dataset.path}: ${field}, shown as ${cell.textContent}`);
  }
}
const ascends = (values) => values.every((value, index) => index === 0 || values[index - 1] <= value);
seen.unsorted = [];
seen.heads = 0;
for (const table of document.querySelectorAll("table.sortable")) {
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    head.querySelector("button").click();
    seen.heads += 1;
    const values = [...table.tBodies[0].rows].map((row) => row.cells[column].dataset.value);
    const numbers = values.filter((value) => value !== undefined).map(Number);
    if (head.getAttribute("aria-sort") !== "ascending" || !ascends(numbers)) seen.unsorted.push(head.textContent);
  });
}
seen.toggles = 0;
seen.still_shown = [];
for (const toggle of document.querySelectorAll("[data-toggle]")) {
  toggle.click();
  seen.toggles += 1;
  const left = [...document.querySelectorAll(`[data-mode="${toggle.dataset.toggle}"]`)].filter((element) => element.offsetParent);
  if (left.length > 0) seen.still_shown.push(toggle.dataset.toggle);
  toggle.click();
}
// By the keyboard alone: whatever can be pressed or scrolled can have the focus.
seen.out_of_reach = [...document.querySelectorAll("button, input, .scroll")].filter((element) => element.tabIndex < 0).length;
seen.too_wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
seen.requests = performance.getEntriesByType("resource").map((entry) => entry.name);
const outcome = document.createElement("pre");
outcome.id = "seen";
outcome.textContent = JSON.stringify(seen);
document.body.append(outcome);
</script></body>"##;

/// The browser; without one, the test that asks says that it checked nothing.
fn chromium() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let files = std::env::split_paths(&path).flat_map(|folder| {
        ["chromium", "chromium-browser", "google-chrome"].map(|name| folder.join(name))
    });
    let found = files.into_iter().find(|file| file.is_file());
    if found.is_none() {
        kpkeys_skips::skip!("there is no Chromium to open the page with");
    }
    found
}

/// What the browser prints, with a profile of its own.
fn browse(browser: &Path, page: &Path, width: u32, options: &[&str]) -> String {
    let profile = tempfile::tempdir().unwrap();
    let output = Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("--window-size={width},{HEIGHT}"))
        .args(options)
        .arg(format!("file://{}", page.display()))
        .output()
        .expect("the browser starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// What the probes saw.
fn seen(document: &str) -> Value {
    let (_, seen) = document.split_once("<pre id=\"seen\">").expect("the probe came to its end");
    let (seen, _) = seen.split_once("</pre>").unwrap();
    let plain = seen.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
    serde_json::from_str(&plain).unwrap()
}

#[test]
fn every_number_on_the_page_is_the_json_s_and_everything_can_be_pressed() {
    let Some(browser) = chromium() else { return };
    let pictures = Path::new(env!("CARGO_TARGET_TMPDIR")).join("pages");
    fs::create_dir_all(&pictures).unwrap();
    let (page, probed) = (pictures.join("report.html"), pictures.join("probed.html"));
    let unpacked = tempfile::tempdir().unwrap();
    let run = unpacked.path().join("full");
    fs::create_dir(&run).unwrap();
    let tar = Command::new("tar").args(["-xzf", RUN, "-C"]).arg(&run).status().unwrap();
    assert!(tar.success());
    let mut report = Command::new(env!("CARGO_BIN_EXE_kpkeys"));
    assert!(report.arg("report").arg(&run).arg("-o").arg(&page).status().unwrap().success());
    let text = fs::read_to_string(&page).unwrap();
    assert!(text.len() < LARGEST, "{} bytes", text.len());
    let text = text.replacen("<head>", BEFORE, 1).replacen("</body>", BEHIND, 1);
    fs::write(&probed, text).unwrap();
    for width in WIDTHS {
        let seen = seen(&browse(&browser, &probed, width, &["--dump-dom"]));
        for nothing in ["errors", "wrong", "unsorted", "still_shown", "requests"] {
            assert_eq!(seen[nothing], serde_json::json!([]), "{nothing} at {width} px");
        }
        for some in ["numbers", "heads", "toggles"] {
            assert!(seen[some].as_u64() > Some(1), "{some}: {seen}");
        }
        assert_eq!(
            (&seen["too_wide"], &seen["out_of_reach"]),
            (&0.into(), &0.into()),
            "at {width} px"
        );
        for (name, colours) in [("day", "--disable-features=none"), ("night", "--force-dark-mode")]
        {
            let picture = pictures.join(format!("report-{width}-{name}.png"));
            let _ = fs::remove_file(&picture);
            browse(
                &browser,
                &page,
                width,
                &[colours, &format!("--screenshot={}", picture.display())],
            );
            assert!(
                fs::metadata(&picture).is_ok_and(|file| file.len() > 10_000),
                "{}",
                picture.display()
            );
        }
    }
}

/// The probe itself: a number that is not the JSON's is told.
#[test]
fn a_page_with_a_wrong_number_is_found_out() {
    let Some(browser) = chromium() else { return };
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("wrong.html");
    let cells = r#"<td data-path="/0" data-value="1.5">1.5</td><td data-path="/1" data-value="2">2.1</td><td data-path="/2" data-value="4">3</td>"#;
    let text = format!(
        "<html>{BEFORE}</head><body><table><tr>{cells}</tr></table><script type=\"application/json\" id=\"data\">[1.5, 2, 3]</script>{BEHIND}</html>"
    );
    fs::write(&page, text).unwrap();
    let seen = seen(&browse(&browser, &page, 400, &["--dump-dom"]));
    assert_eq!(seen["wrong"], serde_json::json!(["/1: 2, shown as 2.1", "/2: 3, shown as 3"]));
}
