//! `kpkeys estimate` against a kept run to which nothing of it was fitted, and what it says where it cannot know.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

const RUN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/results/runs/parts.tar.gz");

fn unpacked() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let tar = Command::new("tar").args(["-xzf", RUN, "-C"]).arg(folder.path()).status().unwrap();
    assert!(tar.success());
    folder
}

fn estimate(arguments: &[&str], folder: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kpkeys"));
    command.arg("estimate").args(arguments).arg(folder).output().unwrap()
}

fn instructions(folder: &Path) -> PathBuf {
    folder.join("instructions.toml")
}

fn validated(folder: &Path) -> Value {
    let instructions = format!("--instructions={}", instructions(folder).display());
    let output = estimate(&[&instructions, "--format=json", "--validate"], folder);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice::<Value>(&output.stdout).unwrap()
}

/// What is measured lies where it was expected; with its own interval, nearly always.
#[test]
fn a_run_that_nothing_was_fitted_to_comes_true() {
    let folder = unpacked();
    let report = validated(folder.path());
    let count = |mode: &str, what: &str| report["validated"][mode][what].as_u64().unwrap();
    for mode in ["unbatched", "batched", "fused-lean", "fused"] {
        assert_eq!(count(mode, "rows"), 18);
        // One row in ten, at most, lies elsewhere beyond what both sides leave open.
        assert!(count(mode, "contradicted") <= 1, "{mode}: {report}");
    }
    for mode in ["unbatched", "fused"] {
        assert!(count(mode, "within_stated") >= 17, "{mode}: {}", report["validated"]);
    }
    assert!(count("batched", "within_stated") >= 15, "{}", report["validated"]);
    // Costs are the run's, not this machine's.
    assert_eq!(report["costs"]["switch"]["ns"], 8.912675);
    assert!(report["worthless"].is_null());
}

/// Without the software the same costs do not explain what was measured.
#[test]
fn it_is_the_software_that_was_missing() {
    let folder = unpacked();
    let file = instructions(folder.path());
    let whole = validated(folder.path());
    // Every mode executes what the baseline does.
    let counted = fs::read_to_string(&file).unwrap();
    let table: toml::Table = toml::from_str(&counted).unwrap();
    let mut same = String::from("[counts]\n");
    for (name, _) in table["counts"].as_table().unwrap() {
        same.push_str(&format!("{name:?} = 100.0\n"));
    }
    fs::write(&file, same).unwrap();
    let bare = validated(folder.path());
    for mode in ["unbatched", "fused"] {
        let within = |report: &Value| report["validated"][mode]["within_stated"].as_u64().unwrap();
        assert!(within(&bare) + 8 < within(&whole), "{mode}: {bare}");
    }
}

#[test]
fn a_folder_without_a_run_and_a_file_of_something_else_are_refused() {
    let empty = tempfile::tempdir().unwrap();
    let output = estimate(&["--validate"], empty.path());
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("is no run"), "{output:?}");

    let folder = unpacked();
    fs::write(instructions(folder.path()), "name = \"plan\"\n").unwrap();
    let file = format!("--instructions={}", instructions(folder.path()).display());
    let output = estimate(&[&file, "--validate"], folder.path());
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("leave --instructions out"), "{said}");
}
