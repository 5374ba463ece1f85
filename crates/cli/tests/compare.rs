//! `kpkeys compare` and `kpkeys report` as a person or a script uses them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

const KPKEYS: &str = env!("CARGO_BIN_EXE_kpkeys");
/// One row that takes milliseconds.
const ROW: &str = "vm_map_ram_test: p:1, h:0";

fn kpkeys(arguments: &[&str]) -> Output {
    Command::new(KPKEYS).args(arguments).output().expect("the program starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", text(&output.stderr)))
}

fn short_run(folder: &Path, blocks: &str) -> String {
    let folder = folder.to_str().expect("a path in UTF-8").to_owned();
    let run = [
        "bench",
        "--quick",
        "--blocks",
        blocks,
        "--rows",
        "vm_map_ram*",
        "--modes",
        "batched",
        "--out",
        &folder,
    ];
    let output = kpkeys(&run);
    assert!(output.status.success(), "{}", text(&output.stderr));
    folder
}

#[test]
fn a_run_compared_with_itself_is_the_same_in_every_format() {
    let folder = tempfile::tempdir().unwrap();
    let run = short_run(&folder.path().join("run"), "2");
    let report = json(&kpkeys(&["compare", &run, &run, "--format", "json"]));
    let contrast = &report["comparisons"][0];
    assert_eq!(contrast["conclusive"], true, "{contrast}");
    assert_eq!(contrast["differences"], Value::Array(vec![]));
    for change in contrast["rows"][0]["changes"].as_array().unwrap() {
        assert_eq!(change["change_pct"], 0.0, "{change}");
        assert_eq!(change["before"], change["after"], "{change}");
        assert_eq!(change["p"], 1.0, "{change}");
    }
    let bmf = json(&kpkeys(&["compare", &run, &run, "--format", "bmf"]));
    let batched = &bmf[format!("{ROW} / batched")];
    assert!(batched["latency"]["value"].as_f64().unwrap() > 0.0, "{bmf}");
    assert!(batched["overhead-change-percent"]["lower_value"].as_f64().unwrap() <= 0.0, "{bmf}");
    let csv = text(&kpkeys(&["compare", &run, &run, "--format", "csv"]).stdout);
    assert_eq!(csv.lines().count(), 4, "heads, two times and an effect:\n{csv}");
    let markdown = text(&kpkeys(&["compare", &run, &run, "--format", "markdown"]).stdout);
    assert!(markdown.contains(&format!("| {ROW} | batched effect |")), "{markdown}");
    let table = text(&kpkeys(&["compare", &run, &run]).stdout);
    assert!(table.contains("out of reach: too few blocks"), "{table}");
}

#[test]
fn what_cannot_be_concluded_breaks_a_limit_and_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let run = short_run(&folder.path().join("run"), "2");
    let other = folder.path().join("other");
    fs::create_dir(&other).unwrap();
    let samples = fs::read_to_string(Path::new(&run).join("samples.jsonl")).unwrap();
    let changed = samples.replacen("\"backend\":\"mock\"", "\"backend\":\"pks\"", 1);
    assert_ne!(samples, changed);
    fs::write(other.join("samples.jsonl"), changed).unwrap();
    let other = other.to_str().unwrap();

    let output = kpkeys(&["compare", &run, other]);
    assert_eq!(output.status.code(), Some(0), "nothing was asked to hold");
    let told = text(&output.stdout);
    assert!(
        told.contains("NOTHING IS CONCLUDED") && told.contains("differs: backend: mock / pks"),
        "{told}"
    );
    let output = kpkeys(&["compare", &run, other, "--fail-above", "2%"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("backend: mock / pks"), "{}", text(&output.stderr));
    let accepted = ["compare", &run, other, "--fail-above", "2%", "--across", "backend"];
    assert!(text(&kpkeys(&accepted).stderr).contains("too few blocks"), "two blocks hold no limit");
}

#[test]
fn a_published_table_stands_beside_a_run() {
    let folder = tempfile::tempdir().unwrap();
    let run = short_run(&folder.path().join("run"), "2");
    let report = json(&kpkeys(&["compare", &run, "v5-amended", "--format", "json"]));
    let changes = report["comparisons"][0]["rows"][0]["changes"].as_array().unwrap().clone();
    let effect = changes.iter().find(|change| change["measure"] == "effect").unwrap();
    assert!(
        effect["after"].is_f64() && effect["verdict"].is_null() && effect["p"].is_null(),
        "{effect}"
    );
    // A table alone, without its samples.
    let table = Path::new(&run).join("table.json");
    let output = kpkeys(&["compare", table.to_str().unwrap(), &run]);
    assert!(
        text(&output.stdout).contains("a table without its samples / held"),
        "{}",
        text(&output.stdout)
    );
}

#[test]
fn what_is_no_run_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().to_str().unwrap();
    let mixed = folder.path().join("mixed");
    fs::create_dir(&mixed).unwrap();
    fs::write(mixed.join("samples.jsonl"), "{\"kind\":\"run\",\"format\":7}\n").unwrap();
    for (sides, code, expected) in [
        ([empty, "v5-amended"], 2, "is no run"),
        (["v4", "v5-amended"], 2, "v5-switch-only"),
        ([mixed.to_str().unwrap(), "v5-amended"], 1, "samples.jsonl:1"),
    ] {
        let output = kpkeys(&["compare", sides[0], sides[1]]);
        assert_eq!(output.status.code(), Some(code), "{sides:?}: {}", text(&output.stderr));
        assert!(text(&output.stderr).contains(expected), "{}", text(&output.stderr));
    }
    assert_eq!(kpkeys(&["compare", empty, empty, "--fail-above", "two"]).status.code(), Some(2));
    assert_eq!(kpkeys(&["compare", empty, empty, "--across", "weather"]).status.code(), Some(2));
    assert_eq!(kpkeys(&["report", empty]).status.code(), Some(2));
    let not_built = kpkeys(&["compare", "--run", "/bin/true", KPKEYS]);
    assert_eq!(not_built.status.code(), Some(2));
    assert!(text(&not_built.stderr).contains("no build of kpkeys"), "{}", text(&not_built.stderr));
}

#[test]
fn builds_take_turns_in_the_same_blocks_and_a_stopped_session_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("session");
    let run = |blocks: &str| {
        let bench =
            ["--quick", "--rows", "vm_map_ram*", "--modes", "batched", "--blocks", blocks, "--out"];
        let call = ["compare", "--run", KPKEYS, KPKEYS, "--format", "json", "--"];
        let call: Vec<&str> =
            call.into_iter().chain(bench).chain([out.to_str().unwrap()]).collect();
        kpkeys(&call)
    };
    let report = json(&run("2"));
    let contrast = &report["comparisons"][0];
    assert_eq!((&contrast["paired"], &contrast["conclusive"]), (&true.into(), &true.into()));
    let change = &contrast["rows"][0]["changes"][0];
    assert_eq!((&change["mode"], &change["blocks"]), (&"off".into(), &2.into()));
    assert!(!change["verdict"].is_null(), "times of one session are judged: {change}");
    // A kill between the two builds' records of a block: that block is of no use.
    let after = out.join("after/samples.jsonl");
    let samples = fs::read_to_string(&after).unwrap();
    let kept: Vec<&str> = samples.lines().filter(|line| !line.contains("\"block\":1")).collect();
    fs::write(&after, kept.join("\n") + "\n").unwrap();
    let report = json(&run("2"));
    let change = &report["comparisons"][0]["rows"][0]["changes"][0];
    assert_eq!(change["blocks"], 2, "another block takes its place: {change}");
    // Either folder is a run like any other.
    let before = out.join("before");
    assert_eq!(kpkeys(&["report", before.to_str().unwrap()]).status.code(), Some(0));
}

#[test]
fn a_page_needs_nothing_but_itself() {
    let folder = tempfile::tempdir().unwrap();
    let run = short_run(&folder.path().join("run"), "2");
    let file = folder.path().join("page.html");
    let output = kpkeys(&["report", &run, "-o", file.to_str().unwrap()]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let page = fs::read_to_string(&file).unwrap();
    assert!(page.len() < 1_000_000);
    for outside in ["src=", "@import", "url(", "https://", "fetch("] {
        assert!(!page.contains(outside), "{outside}");
    }
    let (_, data) = page.split_once("id=\"data\">").unwrap();
    let (data, _) = data.split_once("</script>").unwrap();
    let data: Value = serde_json::from_str(data).unwrap();
    let table = fs::read_to_string(Path::new(&run).join("table.json")).unwrap();
    assert_eq!(data[0], serde_json::from_str::<Value>(&table).unwrap());
    let pictures = folder.path().join("pictures");
    let output = kpkeys(&["report", &run, "--svg", pictures.to_str().unwrap()]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let mut names: Vec<_> =
        fs::read_dir(&pictures).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["effects-batched.svg", "exposure-against-overhead.svg"]);
}

/// Builds this command with a slowdown planted in one row. Builds for different slowdowns differ in a number among their constants, and so not in
/// the layout of their code.
fn planted(row: &str, percent: &str) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("planted");
    let built = Command::new(env!("CARGO"))
        .args(["build", "--release", "--package=kpkeys-cli", "--features=planted", "--target-dir"])
        .arg(&target)
        .env("KPKEYS_PLANTED_ROW", row)
        .env("KPKEYS_PLANTED_PERCENT", percent)
        .status()
        .expect("cargo starts");
    assert!(built.success());
    let kept = target.join(format!("kpkeys-{percent}"));
    fs::copy(target.join("release/kpkeys"), &kept).unwrap();
    kept
}

/// On request, on a quiet machine: `cargo test --release -p kpkeys-cli --test compare -- --ignored --nocapture`.
#[test]
#[ignore = "builds the command anew and measures for a quarter of an hour"]
fn three_percent_in_one_row_are_found_and_the_same_build_is_the_same() {
    const SLOWED: &str = "fix_size_alloc_test: p:256, h:0";
    let [plain, slow] = ["0", "3"].map(|percent| planted(SLOWED, percent));
    let [plain, slow] = [&plain, &slow].map(|build| build.to_str().unwrap());
    let run = |after: &str, rows: &[&str]| {
        let call = [
            "compare",
            "--run",
            plain,
            after,
            "--fail-above",
            "2%",
            "--",
            "--quick",
            "--blocks",
            "12",
            "--modes",
            "batched",
        ];
        let rows = rows.iter().flat_map(|row| ["--rows", row]);
        kpkeys(&call.into_iter().chain(rows).collect::<Vec<_>>())
    };
    let found = run(slow, &[SLOWED, "fix_size_alloc_test: p:64, h:0", "vm_map_ram*"]);
    let told = text(&found.stderr);
    eprintln!("{}{told}", text(&found.stdout));
    assert_eq!(found.status.code(), Some(1), "{told}");
    assert!(told.contains(SLOWED), "{told}");
    assert!(!told.contains("p:64, h:0") && !told.contains("vm_map_ram"), "{told}");
    for attempt in 0..20 {
        let same = run(plain, &[SLOWED]);
        assert_eq!(same.status.code(), Some(0), "attempt {attempt}: {}", text(&same.stdout));
    }
}

/// A run of a version before there were sessions, noise and chosen CPUs.
#[test]
fn folders_of_older_versions_are_read() {
    let old = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/older-run");
    let old = old.to_str().unwrap();
    let report = json(&kpkeys(&["compare", old, old, "--format", "json"]));
    assert_eq!(report["comparisons"][0]["conclusive"], true);
    assert!(kpkeys(&["report", old]).status.success());
    let history = kpkeys(&["history", env!("CARGO_MANIFEST_DIR"), "--format", "json"]);
    assert_eq!(json(&history)["series"], serde_json::json!([]));
    let told = text(&history.stderr);
    assert!(told.contains("1 of 1 runs are of a version that named no commit"), "{told}");
}
