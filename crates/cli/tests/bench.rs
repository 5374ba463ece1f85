//! `kpkeys bench` as a person or a script uses it.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

const SAMPLES: &str = "samples.jsonl";

fn kpkeys(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kpkeys")).args(arguments).output().expect("the program starts")
}

/// A short run: one row that takes milliseconds, two blocks.
fn short_run(out: &Path, more: &[&str]) -> Output {
    let out = out.to_str().expect("a path in UTF-8");
    let mut arguments =
        vec!["bench", "--quick", "--blocks", "2", "--rows", "vm_map_ram*", "--out", out];
    arguments.extend(more);
    kpkeys(&arguments)
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn the_json_object_has_the_promised_fields() {
    let folder = tempfile::tempdir().unwrap();
    let output = short_run(&folder.path().join("new"), &["--format", "json"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let table: Value =
        serde_json::from_slice(&output.stdout).expect("one JSON object and nothing else");
    for field in ["machine", "on", "backend", "switch_ns", "blocks", "seed", "gates", "rows"] {
        assert!(!table[field].is_null(), "{field}");
    }
    let row = &table["rows"][0];
    assert_eq!(row["result_class"], "vm_map_ram_test: p:1, h:0");
    assert!(row["baseline"].as_f64().unwrap() > 0.0);
    for mode in ["unbatched", "batched", "fused-lean", "fused"] {
        let cell = &row["modes"][mode];
        for field in
            ["effect_pct", "ci_low_pct", "ci_high_pct", "extra_ns", "p_holm", "counts", "exposure"]
        {
            assert!(!cell[field].is_null(), "{mode} {field}");
        }
        assert_eq!(cell["counts"]["entry_stores"], 2.0, "one set and one clear a loop in {mode}");
    }
    assert!(row["modes"]["off"]["counts"]["switches"].as_f64() == Some(0.0));
    assert!(row["modes"]["aa"]["effect_pct"].is_f64());
}

/// Where this machine has keys for user pages they are used; elsewhere the refusal says what is missing and what works.
#[test]
#[cfg(target_arch = "x86_64")]
fn keys_for_user_pages_are_used_or_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let asked = ["--backend", "pku", "--format", "json"];
    let output = short_run(&folder.path().join("new"), &asked);
    let Err(missing) = kpkeys_hosted::pku::check() else {
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let table: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
        assert_eq!(table["backend"], "pku");
        return;
    };
    let told = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{told}");
    assert!(told.contains(&missing.to_string()) && told.contains("--backend mock"), "{told}");
    assert!(output.stdout.is_empty());
}

#[test]
fn progress_stays_out_of_pipes() {
    let folder = tempfile::tempdir().unwrap();
    let output = short_run(&folder.path().join("new"), &[]);
    assert_eq!(stderr(&output), "");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("vm_map_ram_test: p:1, h:0") && !text.contains('\u{1b}'), "{text}");
}

#[test]
fn unknown_names_are_refused_with_the_valid_ones() {
    for (arguments, expected) in [
        (["--rows", "frok"], "fork: h:1"),
        (["--modes", "fast"], "off, unbatched, batched, fused-lean, fused"),
        (["--backend", "pks"], "mock, pku"),
        (["--on", "mars"], "host, qemu-x86_64, qemu-aarch64"),
        (["--paging", "riscv"], "aarch64, x86_64"),
        (["--compare", "v4"], "v5-amended"),
    ] {
        let output = kpkeys(&["bench", arguments[0], arguments[1]]);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(stderr(&output).contains(expected), "{arguments:?}: {}", stderr(&output));
        assert!(output.stdout.is_empty());
    }
    let output = kpkeys(&["reference", "v4"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("v5-switch-only"), "{}", stderr(&output));
}

#[test]
fn a_folder_that_is_not_ours_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("thesis.tex"), "years of work").unwrap();
    let output = short_run(folder.path(), &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("something else"), "{}", stderr(&output));
    let names: Vec<_> =
        fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["thesis.tex"]);
}

#[test]
fn samples_of_another_run_are_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(short_run(folder.path(), &[]).status.code(), Some(0));
    let before = fs::read(folder.path().join(SAMPLES)).unwrap();
    let output = short_run(folder.path(), &["--seed", "2"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("seed was 1, is 2"), "{}", stderr(&output));
    assert_eq!(fs::read(folder.path().join(SAMPLES)).unwrap(), before);
}

#[test]
fn a_killed_run_goes_on_where_it_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("results");
    let mut running = Command::new(env!("CARGO_BIN_EXE_kpkeys"))
        .args(["bench", "--quick", "--blocks", "2", "--rows", "vm_map_ram*", "--out"])
        .arg(&out)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let samples = out.join(SAMPLES);
    while !fs::read_to_string(&samples).is_ok_and(|text| text.contains("\"done\"")) {
        assert!(running.try_wait().unwrap().is_none(), "the run ended before it could be killed");
        std::thread::sleep(Duration::from_millis(1));
    }
    running.kill().unwrap();
    running.wait().unwrap();
    // As a kill in the middle of a write would leave it.
    let kept = fs::read_to_string(&samples).unwrap();
    fs::write(&samples, format!("{kept}{{\"kind\":\"sam")).unwrap();

    let output = short_run(&out, &["--format", "json"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let table: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(table["blocks"], 2);
    let now = fs::read_to_string(&samples).unwrap();
    let whole = kept.rfind("{\"kind\":\"done\"").unwrap();
    let end = whole + kept[whole..].find('\n').unwrap_or(0);
    assert!(now.starts_with(&kept[..end]), "whole blocks stay");
    assert!(now.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()));
}

#[test]
fn an_earlier_run_can_stand_beside() {
    let folder = tempfile::tempdir().unwrap();
    let first = folder.path().join("first");
    assert_eq!(short_run(&first, &[]).status.code(), Some(0));
    let output = short_run(
        &folder.path().join("second"),
        &["--compare", first.to_str().unwrap(), "--format", "json"],
    );
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let table: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(table["compare"].is_object());
}

#[test]
fn x86_64_tables_need_no_barrier_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let output = short_run(&folder.path().join("new"), &["--paging", "x86_64", "--format", "json"]);
    let table: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(table["paging"], "x86_64");
    assert_eq!(table["rows"][0]["modes"]["off"]["counts"]["barriers"], 0.0);
}

#[test]
fn a_trace_of_ones_own_is_replayed_in_each_mode() {
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("loop.trace");
    let trace = trace.to_str().unwrap();
    // Long enough to have system and user time: they are sampled by the clock tick.
    let script = "i=0; while [ $i -lt 100 ]; do /bin/true; i=$((i+1)); done; \
                  while [ $i -lt 300000 ]; do i=$((i+1)); done";
    let recorded =
        kpkeys(&["trace", "record", "--method", "perf", "-o", trace, "--", "sh", "-c", script]);
    if !recorded.status.success() {
        kpkeys_skips::skip!("{}", stderr(&recorded));
        return;
    }
    let output =
        kpkeys(&["bench", "--trace", trace, "--quick", "--blocks", "2", "--format", "json"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let table: Value = serde_json::from_slice(&output.stdout).unwrap();
    let names: Vec<_> =
        table["rows"].as_array().unwrap().iter().map(|row| &row["result_class"]).collect();
    assert_eq!(names, ["real time", "system time", "user time", "memory management"]);
    let memory = &table["rows"][3]["modes"];
    let count = |mode: &str, name: &str| memory[mode]["counts"][name].as_f64().unwrap();
    assert!(count("off", "entry_stores") > 1000.0);
    assert_eq!(count("off", "windows"), 0.0);
    // The same history: only windows and key changes differ.
    for mode in ["unbatched", "batched", "fused-lean", "fused"] {
        assert_eq!(count(mode, "entry_stores"), count("off", "entry_stores"));
        assert_eq!(count(mode, "ptps"), count("off", "ptps"));
    }
    assert!(count("fused", "windows") < count("batched", "windows"));
    assert!(count("batched", "windows") < count("unbatched", "windows"));
    assert_eq!(table["rows"][2]["modes"]["fused"]["effect_pct"], 0.0);

    let one = kpkeys(&["bench", "--trace", trace, "--rows", "fork*"]);
    assert_eq!(one.status.code(), Some(2));
    assert!(stderr(&one).contains("memory management"), "{}", stderr(&one));
}

#[test]
fn files_that_are_no_traces_are_refused() {
    for (file, expected) in
        [("/nowhere/a.trace", "No such file"), ("Cargo.toml", "not a kpkeys trace")]
    {
        let output = kpkeys(&["bench", "--trace", file]);
        assert_eq!(output.status.code(), Some(2));
        let said = stderr(&output);
        assert!(said.contains(expected) && said.contains(file), "{said}");
    }
}

#[test]
fn a_run_says_what_made_it() {
    let folder = tempfile::tempdir().unwrap();
    let output = short_run(&folder.path().join("new"), &["--format", "json"]);
    let table: Value = serde_json::from_slice(&output.stdout).unwrap();
    let origin = &table["origin"];
    assert_eq!(origin["build_hash"].as_str().unwrap().len(), 64);
    assert!(origin["started"].as_str().unwrap().ends_with('Z'), "{origin}");
    assert_eq!(origin["rows"], serde_json::json!(["vm_map_ram_test: p:1, h:0"]));
    let modes = serde_json::json!(["off", "aa", "unbatched", "batched", "fused-lean", "fused"]);
    assert_eq!(origin["modes"], modes);
    if cfg!(target_arch = "x86_64") {
        for detail in ["cpu_family", "cpu_model", "cpu_stepping"] {
            assert!(table["machine"][detail].is_string(), "{detail}: {}", table["machine"]);
        }
    }
}

#[test]
fn a_folder_of_other_rows_modes_or_another_build_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(short_run(folder.path(), &[]).status.code(), Some(0));
    let samples = folder.path().join(SAMPLES);
    let recorded = fs::read_to_string(&samples).unwrap();
    let refused = |more: &[&str], expected: &str| {
        let before = fs::read(&samples).unwrap();
        let output = short_run(folder.path(), more);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{more:?}: {said}");
        assert!(said.contains(expected) && said.contains(SAMPLES), "{expected}: {said}");
        assert!(output.stdout.is_empty(), "no table of another run");
        assert_eq!(fs::read(&samples).unwrap(), before);
    };
    refused(
        &["--rows", "fix_size_alloc_test: p:1, h:0"],
        "rows was vm_map_ram_test: p:1, h:0, is ",
    );
    refused(
        &["--modes", "fused"],
        "modes was off, aa, unbatched, batched, fused-lean, fused, is off, aa, fused",
    );
    let hash = recorded.split("\"build_hash\":\"").nth(1).unwrap().split('"').next().unwrap();
    fs::write(&samples, recorded.replace(hash, "0000")).unwrap();
    refused(&[], "build hash was 0000, is ");
    // As a version wrote it that did not say what made a run.
    let (header, rest) = recorded.split_once('\n').unwrap();
    let mut header: Value = serde_json::from_str(header).unwrap();
    header.as_object_mut().unwrap().remove("origin");
    fs::write(&samples, format!("{header}\n{rest}")).unwrap();
    refused(&[], "does not say which program recorded it");
    // Damaged, and with a sample twice.
    fs::write(&samples, recorded.replacen("\"sample\"", "\"sampel\"", 1)).unwrap();
    refused(&[], "samples.jsonl:2: malformed record");
    let first = rest.lines().next().unwrap();
    fs::write(&samples, recorded.replacen(first, &format!("{first}\n{first}"), 1)).unwrap();
    refused(&[], "samples.jsonl:3: vm_map_ram_test: p:1, h:0, mode");
}

#[test]
fn what_is_used_again_is_announced() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(stderr(&short_run(folder.path(), &[])), "");
    let again = short_run(folder.path(), &[]);
    assert_eq!(again.status.code(), Some(0));
    let said = stderr(&again);
    assert!(said.contains("holds 2 of the 2 blocks of this run, begun 20"), "{said}");
    assert!(said.contains("they are not measured again"), "{said}");
}

#[test]
fn a_run_can_pause_after_each_block() {
    let folder = tempfile::tempdir().unwrap();
    let paused = short_run(folder.path(), &["--pause-after", "1"]);
    assert_eq!(paused.status.code(), Some(0), "{}", stderr(&paused));
    assert!(stderr(&paused).contains("1 of 2 blocks are left"), "{}", stderr(&paused));
    assert!(paused.stdout.is_empty());
    let whole = short_run(folder.path(), &["--pause-after", "1", "--format", "json"]);
    let table: Value = serde_json::from_slice(&whole.stdout).unwrap();
    // What other processes did meanwhile may be noted as well.
    assert_eq!(table["blocks"], 2, "{}", table["notices"]);
}

#[test]
fn the_table_of_an_older_version_can_stand_beside() {
    let folder = tempfile::tempdir().unwrap();
    let first = folder.path().join("first");
    assert_eq!(short_run(&first, &[]).status.code(), Some(0));
    let path = first.join("table.json");
    let mut table: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    table.as_object_mut().unwrap().remove("origin");
    table["rows"][0].as_object_mut().unwrap().remove("baseline_recorded");
    fs::write(&path, table.to_string()).unwrap();
    let output = short_run(&folder.path().join("second"), &["--compare", first.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

#[test]
fn rows_are_listed_without_running_any() {
    let output = kpkeys(&["bench", "--list"]);
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("fork: h:1") && text.contains("h:1 large folios"), "{text}");
}

#[test]
fn layouts_stand_side_by_side_only_if_they_differ_in_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let [one, two, same] = ["one", "two", "same"].map(|name| folder.path().join(name));
    assert_eq!(short_run(&one, &[]).status.code(), Some(0));
    let copy = |to: &Path, change: &dyn Fn(&mut Value)| {
        let text = fs::read(one.join("table.json")).unwrap();
        let mut table: Value = serde_json::from_slice(&text).unwrap();
        change(&mut table);
        fs::create_dir_all(to).unwrap();
        fs::write(to.join("table.json"), table.to_string()).unwrap();
    };
    copy(&two, &|table| {
        table["origin"]["build_hash"] = "00".into();
        let effect = table["rows"][0]["modes"]["fused"]["effect_pct"].as_f64().unwrap();
        table["rows"][0]["modes"]["fused"]["effect_pct"] = (effect + 10.0).into();
    });
    let call = |other: &Path| {
        kpkeys(&["spread", one.to_str().unwrap(), other.to_str().unwrap(), "--format", "json"])
    };
    let output = call(&two);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let spread = &report["machines"][0];
    assert_eq!(spread["layouts"].as_array().unwrap().len(), 2);
    let fused = &spread["rows"][0]["modes"]["fused"];
    let end = |name: &str| fused["effect_pct"][name].as_f64().unwrap();
    assert!((end("high") - end("low") - 10.0).abs() < 1e-6, "{fused}");
    assert!(fused["longest_window_stores"].as_u64().unwrap() > 0);

    copy(&same, &|_| {});
    let output = call(&same);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("a build that another folder has"), "{}", stderr(&output));
    copy(&same, &|table| {
        table["origin"]["build_hash"] = "11".into();
        table["origin"]["commit"] = "another".into();
    });
    assert!(stderr(&call(&same)).contains("commit is "), "{}", stderr(&call(&same)));
}
