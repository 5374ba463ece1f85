//! `kpkeys campaign` on this machine: tasks that are killed, disks that are full, plans that are wrong. With a scheduler: `slurm.rs`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

const PLAN: &str = r#"
name = "small"

[limits]
processes = 2

[[machine]]
name = "left"

[[machine]]
name = "right"

[[bench]]
name = "ram"
rows = ["vm_map_ram*"]
modes = ["batched"]
effort = "quick"
blocks = 2

[[call]]
name = "printed"
machines = ["left"]
arguments = ["reference", "v5-amended", "--format=json"]
seeds = { from = 1, to = 5 }
seeds_per_task = 2
"#;

/// Two blocks on each machine, and five calls in three tasks.
const TASKS: usize = 7;

fn kpkeys() -> Command {
    Command::new(env!("CARGO_BIN_EXE_kpkeys"))
}

struct Campaign {
    folder: tempfile::TempDir,
}

impl Campaign {
    fn new(plan: &str) -> Campaign {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("plan.toml"), plan).unwrap();
        Campaign { folder }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("small")
    }

    fn command(&self, call: &str) -> Command {
        let mut command = kpkeys();
        command.args(["campaign", call]).arg(self.folder.path().join("plan.toml"));
        command
    }

    fn call(&self, call: &str) -> Output {
        self.command(call).output().unwrap()
    }

    /// A call of a process that can write no file above 4 KiB: what a full disk does to it, without one.
    fn call_without_room(&self, call: &str) -> Output {
        let script = r#"trap "" XFSZ; ulimit -f 8; exec "$0" campaign "$1" "$2""#;
        let mut shell = Command::new("sh");
        shell.args(["-c", script, env!("CARGO_BIN_EXE_kpkeys"), call]);
        shell.arg(self.folder.path().join("plan.toml")).output().unwrap()
    }

    fn status(&self) -> Value {
        let output = self.command("status").arg("--format=json").output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", stderr(&output)))
    }

    fn begin(&self) -> Child {
        self.command("submit").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// Kills a block while it is carried out. Returns its task.
    fn kill_a_task(&self) -> u64 {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            assert!(Instant::now() < end, "no task was begun");
            // The first block has the longest to do.
            let process = fs::read_to_string(self.path().join("locks/0")).unwrap_or_default();
            if self.path().join("work/0").exists() && !process.is_empty() {
                let killed = Command::new("kill").args(["-9", &process]).status().unwrap();
                assert!(killed.success());
                return 0;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// How often each block of each mode is in a sample file.
fn blocks(samples: &Path) -> BTreeMap<(String, u64), usize> {
    let text = fs::read_to_string(samples).unwrap();
    let mut found = BTreeMap::new();
    for line in text.lines() {
        let record: Value = serde_json::from_str(line).unwrap();
        if record["kind"] == "done" {
            let mode = record["mode"].as_str().unwrap().to_owned();
            *found.entry((mode, record["block"].as_u64().unwrap())).or_default() += 1;
        }
    }
    found
}

#[test]
fn every_result_is_there_once_whatever_was_killed_on_the_way() {
    let campaign = Campaign::new(PLAN);
    let mut running = campaign.begin();
    let killed = campaign.kill_a_task();
    assert_eq!(running.wait().unwrap().code(), Some(1), "a task failed");

    let status = campaign.status();
    assert_eq!(status["planned"], TASKS);
    assert_eq!(status["done"].as_array().unwrap().len(), TASKS - 1, "{status}");
    let failed = status["failed"].as_array().unwrap();
    assert_eq!((failed.len(), &failed[0]["task"]), (1, &killed.into()), "{status}");
    assert!(Path::new(failed[0]["log"].as_str().unwrap()).exists());
    let text = campaign.call("status");
    assert_eq!(text.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&text.stdout).contains("6 of 7 tasks done"));

    // What is there can be looked at, and is not all.
    assert_eq!(campaign.call("collect").status.code(), Some(1));
    let left = campaign.path().join("collected/ram/left");
    assert_eq!(blocks(&left.join("samples.jsonl")).len(), 3, "one block of off, aa, batched");

    // The same call again hands out that one, and touches no other.
    let before = fs::metadata(campaign.path().join("tasks/1")).unwrap().modified().unwrap();
    let again = campaign.call("submit");
    assert_eq!(again.status.code(), Some(0), "{}", stderr(&again));
    assert_eq!(fs::metadata(campaign.path().join("tasks/1")).unwrap().modified().unwrap(), before);

    let collected = campaign.call("collect");
    assert_eq!(collected.status.code(), Some(0), "{}", stderr(&collected));
    for machine in ["left", "right"] {
        let place = campaign.path().join("collected/ram").join(machine);
        let found = blocks(&place.join("samples.jsonl"));
        let linux = found.keys().filter(|(mode, _)| mode == "linux").count();
        assert_eq!(found.len() - linux, 2 * 3, "{found:?}");
        assert!(found.values().all(|times| *times == 1), "{found:?}");
        let table: Value =
            serde_json::from_slice(&fs::read(place.join("table.json")).unwrap()).unwrap();
        assert_eq!(table["blocks"], 2);
        // Counted once, with the first block.
        let counts = &table["rows"][0]["modes"]["batched"]["counts"];
        assert_eq!(counts["entry_stores"], 2.0, "{table}");
    }
    let printed = String::from_utf8_lossy(&collected.stdout).into_owned();
    assert!(printed.contains("ram, machine by machine:"), "machines stand side by side: {printed}");
    assert!(printed.contains("printed on left: 5 of 5 calls held"), "{printed}");
}

#[test]
fn without_room_nothing_is_lost_and_the_reason_is_named() {
    let campaign = Campaign::new(PLAN);
    assert_eq!(campaign.call("submit").status.code(), Some(0));
    assert_eq!(campaign.call("collect").status.code(), Some(0));
    let table = fs::read(campaign.path().join("collected/ram/left/table.json")).unwrap();

    // A block is measured again, and the disk is full.
    fs::remove_dir_all(campaign.path().join("tasks/1")).unwrap();
    assert_eq!(campaign.call_without_room("submit").status.code(), Some(1));
    let status = campaign.status();
    let failed = status["failed"].as_array().unwrap();
    assert_eq!((failed.len(), &failed[0]["task"]), (1, &1.into()), "{status}");
    let log = fs::read_to_string(failed[0]["log"].as_str().unwrap()).unwrap();
    assert!(log.contains("File too large"), "{log}");
    assert!(!campaign.path().join("work/1").exists(), "room for others");

    let collected = campaign.call_without_room("collect");
    assert_eq!(collected.status.code(), Some(1));
    assert!(stderr(&collected).contains("File too large"), "{}", stderr(&collected));
    let now = fs::read(campaign.path().join("collected/ram/left/table.json")).unwrap();
    assert_eq!(now, table, "what was collected before stays");

    assert_eq!(campaign.call("submit").status.code(), Some(0));
    assert_eq!(campaign.call("collect").status.code(), Some(0));
}

/// Plenty of calls that print something, on a file system with room for some of them. In a mount of its own, since whoever tests need not be root.
const FULL_DISK: &str = r#"
disk="$2/disk"
mkdir "$disk"
mount -t tmpfs -o size="$3" none "$disk"
"$1" campaign submit "$2/plan.toml" >"$2/first" 2>&1 && exit 10
"$1" campaign status "$2/plan.toml" --format json >"$2/status"
"$1" campaign collect "$2/plan.toml" >"$2/collected" 2>&1 && exit 11
mount -o remount,size=100% "$disk"
"$1" campaign submit "$2/plan.toml" >"$2/again" 2>&1 || exit 12
"$1" campaign collect "$2/plan.toml" >"$2/all" 2>&1 || exit 13
"#;

#[test]
fn a_disk_that_fills_up_in_the_middle_costs_what_it_had_no_room_for() {
    const CALLS: usize = 40;
    let plan = format!(
        "name = \"small\"\nfolder = \"disk/small\"\n[limits]\nprocesses = 2\n[[call]]\nname = \"printed\"\n\
         arguments = [\"reference\", \"v5-amended\", \"--format=json\"]\nseeds = {{ from = 1, to = {CALLS} }}\n"
    );
    let campaign = Campaign::new(&plan);
    let at = campaign.folder.path();
    let program = env!("CARGO_BIN_EXE_kpkeys");
    // The program itself is kept there too.
    let room = fs::metadata(program).unwrap().len() + (256 << 10);
    let own_mounts: &[&str] =
        if is_root() { &["--mount"] } else { &["--mount", "--map-root-user"] };
    let mut tried = Command::new("unshare");
    tried.args(own_mounts).args(["mount", "-t", "tmpfs", "none"]).arg(at).stderr(Stdio::null());
    let tried = tried.status();
    if !tried.is_ok_and(|tried| tried.success()) {
        kpkeys_skips::skip!("no file system can be mounted here, to fill it");
        return;
    }
    let script = Command::new("unshare")
        .args(own_mounts)
        .args(["sh", "-c", FULL_DISK, "sh", program])
        .arg(at)
        .arg(room.to_string())
        .output()
        .unwrap();
    let said = |name: &str| fs::read_to_string(at.join(name)).unwrap_or_default();
    assert!(script.status.success(), "{script:?}\n{}{}", said("first"), said("again"));
    let status: Value = serde_json::from_str(&said("status")).unwrap();
    let (done, failed) = (&status["done"], status["failed"].as_array().unwrap());
    let done = done.as_array().unwrap().len();
    assert!(done > 0 && done < CALLS && done + failed.len() <= CALLS, "{status}");
    // Where not even a log has room, that is what is said.
    let tells_of_room = |failed: &Value| {
        let said = failed["said"].as_str().unwrap();
        said.contains("No space left on device") || said.contains("no room for its log")
    };
    assert!(failed.iter().any(tells_of_room), "{status}");
    assert!(said("all").contains(&format!("{CALLS} of {CALLS} calls held")), "{}", said("all"));
}

fn is_root() -> bool {
    let user = Command::new("id").arg("-u").output().unwrap();
    String::from_utf8_lossy(&user.stdout).trim() == "0"
}

#[test]
fn a_bad_plan_begins_nothing_and_is_told_what_is_wrong() {
    let change = |from: &str, to: &str| PLAN.replace(from, to);
    for (plan, expected) in [
        (change("vm_map_ram*", "vm_map_rom*"), "no row matches `vm_map_rom*`"),
        (change(r#"["batched"]"#, r#"["bunched"]"#), "unknown mode `bunched`"),
        (change("quick", "hasty"), "unknown effort `hasty`"),
        (change("blocks = 2", "bricks = 2"), "unknown field `bricks`"),
        (change(r#"["left"]"#, r#"["top"]"#), "unknown machine `top`"),
        (change(r#""right""#, r#""left""#), "`left` is there twice"),
        (change(r#""right""#, r#""../right""#), "`../right` names files"),
        (change("reference", "referents"), "unrecognized subcommand 'referents'"),
        (change("processes = 2", "processes = 0"), "at least 1"),
        ("name = \"small\"".to_owned(), "nothing to do"),
        ("name = ".to_owned(), "plan.toml"),
    ] {
        let campaign = Campaign::new(&plan);
        for call in ["plan", "submit"] {
            let output = campaign.call(call);
            assert_eq!(output.status.code(), Some(2), "{expected}: {}", stderr(&output));
            assert!(stderr(&output).contains(expected), "{expected}: {}", stderr(&output));
        }
        assert!(!campaign.path().exists());
    }
}

#[test]
fn without_a_scheduler_that_is_said_and_nothing_begun() {
    let campaign =
        Campaign::new(&PLAN.replace("name = \"right\"", "name = \"right\"\npartition = \"far\""));
    let output = campaign.command("submit").env("PATH", "").output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains("no `sinfo`") && stderr(&output).contains("--local"));
    assert!(!campaign.path().exists());

    let here = campaign.command("submit").arg("--local").env("PATH", "").output().unwrap();
    assert_eq!(here.status.code(), Some(0), "{}", stderr(&here));
    // What is done is known without it.
    let status = campaign.command("status").env("PATH", "").output().unwrap();
    assert_eq!(status.status.code(), Some(1));
    let text = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(text.contains("7 of 7 tasks done") && text.contains("could not be asked"), "{text}");
}

#[test]
fn another_plan_does_not_mix_with_what_was_begun() {
    let campaign = Campaign::new(PLAN);
    assert_eq!(campaign.call("submit").status.code(), Some(0));
    let plan = campaign.folder.path().join("plan.toml");
    fs::write(&plan, PLAN.replace("blocks = 2", "blocks = 3")).unwrap();
    let output = campaign.call("submit");
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("by another plan"), "{}", stderr(&output));
    // How many processes at once is no part of what is measured.
    fs::write(&plan, PLAN.replace("processes = 2", "processes = 1")).unwrap();
    assert_eq!(campaign.call("submit").status.code(), Some(0));
}

#[test]
fn a_folder_that_is_not_ours_is_left_alone() {
    let campaign = Campaign::new(PLAN);
    fs::create_dir(campaign.path()).unwrap();
    fs::write(campaign.path().join("thesis.tex"), "years of work").unwrap();
    let output = campaign.call("submit");
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("something else"), "{}", stderr(&output));
    assert_eq!(fs::read_dir(campaign.path()).unwrap().count(), 1);
}
