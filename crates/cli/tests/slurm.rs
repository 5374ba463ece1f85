//! A campaign of 1,000 tasks in a real Slurm: eight nodes on this machine, tasks killed and a node lost on the way.
//!
//! On request, as root, with the packages `slurmctld`, `slurmd`, `slurm-client` and `munge`: `cargo xtask slurm`. The cluster is this test's
//! own, in a folder of its own and on ports of its own; what else runs on the machine is left alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

const NODES: usize = 8;
const TASKS: usize = 1000;
const KILLED: usize = TASKS / 20;
/// Longest that all of it may take.
const LONGEST: Duration = Duration::from_secs(2400);
/// Blocks for each of the two machines; the rest are calls.
const BLOCKS: usize = 100;

const PLAN: &str = r#"
name = "thousand"

[limits]
minutes = 10

[[machine]]
name = "alpha"
partition = "alpha"

[[machine]]
name = "beta"
partition = "beta"

[[bench]]
name = "ram"
rows = ["vm_map_ram*"]
modes = ["batched"]
effort = "quick"
blocks = 100

[[call]]
name = "printed"
arguments = ["reference", "v5-amended", "--format=json"]
seeds = { from = 1, to = 400 }
"#;

/// A cluster that ends with the test.
struct Cluster {
    folder: tempfile::TempDir,
    daemons: BTreeMap<String, Child>,
}

impl Cluster {
    fn start() -> Cluster {
        let folder = tempfile::tempdir().unwrap();
        // Whoever talks to the authentication daemon must reach its socket.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let mut cluster = Cluster { folder, daemons: BTreeMap::new() };
        for name in ["state", "spool"] {
            fs::create_dir(cluster.path(name)).unwrap();
        }
        fs::write(cluster.path("munge.key"), [7; 128]).unwrap();
        fs::set_permissions(cluster.path("munge.key"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(cluster.path("slurm.conf"), cluster.config()).unwrap();
        let files = ["socket", "key-file", "pid-file", "log-file", "seed-file"].map(|name| {
            format!(
                "--{name}={}",
                cluster.path(&format!("munge.{}", name.trim_end_matches("-file"))).display()
            )
        });
        cluster
            .daemon("munged", Command::new("munged").args(["--foreground", "--force"]).args(files));
        cluster.wait_for("munged", |cluster| cluster.path("munge.socket").exists());
        cluster.daemon("slurmctld", Command::new("slurmctld").arg("-D"));
        cluster.wait_for("slurmctld", |cluster| cluster.ask("scontrol", &["ping"]).contains("UP"));
        for node in 1..=NODES {
            let name = format!("n{node}");
            cluster.daemon(&name, Command::new("slurmd").args(["-D", "-N", &name]));
        }
        cluster.wait_for("nodes", |cluster| {
            let idle = cluster.ask("sinfo", &["-h", "-N", "-o", "%N %t"]);
            idle.lines().filter(|line| line.ends_with(" idle")).count() == NODES
        });
        cluster
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn config(&self) -> String {
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim().to_owned();
        let here = self.folder.path().display();
        format!(
            "ClusterName=kpkeys\nSlurmctldHost={host}(127.0.0.1)\nSlurmctldPort=17000\nAuthType=auth/munge\nAuthInfo=socket={here}/munge.socket\n\
             SlurmUser=root\nSlurmdUser=root\nStateSaveLocation={here}/state\nSlurmdSpoolDir={here}/spool/%n\n\
             SlurmctldPidFile={here}/slurmctld.pid\nSlurmdPidFile={here}/slurmd.%n.pid\nSlurmctldLogFile={here}/slurmctld.log\n\
             SlurmdLogFile={here}/slurmd.%n.log\nProctrackType=proctrack/pgid\nTaskPlugin=task/none\nSelectType=select/cons_tres\n\
             SelectTypeParameters=CR_CPU\nSlurmdParameters=config_overrides\nMaxArraySize=501\nMaxJobCount=10000\nMpiDefault=none\n\
             JobCompType=jobcomp/filetxt\nJobCompLoc={here}/jobcomp.log\nSlurmdTimeout=10\nSchedulerParameters=batch_sched_delay=0\nReturnToService=2\n\
             NodeName=n[1-{NODES}] NodeHostname={host} NodeAddr=127.0.0.1 Port=[17001-1700{NODES}] CPUs=1 RealMemory=500 State=UNKNOWN\n\
             PartitionName=alpha Nodes=n[1-4] Default=YES MaxTime=INFINITE State=UP\n\
             PartitionName=beta Nodes=n[5-8] MaxTime=INFINITE State=UP\n"
        )
    }

    fn daemon(&mut self, name: &str, command: &mut Command) {
        let log = fs::File::create(self.path(&format!("{name}.out"))).unwrap();
        let child = command
            .env("SLURM_CONF", self.path("slurm.conf"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{name}: {error}; `cargo xtask slurm` installs it"));
        self.daemons.insert(name.to_owned(), child);
    }

    fn wait_for(&self, what: &str, ready: impl Fn(&Cluster) -> bool) {
        let end = Instant::now() + Duration::from_secs(60);
        while !ready(self) {
            let said = || fs::read_to_string(self.path(&format!("{what}.out"))).unwrap_or_default();
            assert!(Instant::now() < end, "{what} did not get ready: {}", said());
            sleep(Duration::from_millis(200));
        }
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("SLURM_CONF", self.path("slurm.conf"));
        command
    }

    fn ask(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.command(program).args(arguments).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Tasks in the queue, by the scheduler's own word.
    fn queue(&self) -> BTreeSet<u64> {
        let lines = self.ask("squeue", &["-h", "-r", "-o", "%j %K"]);
        let task = |line: &str| {
            let (name, index) = line.trim().split_once(' ')?;
            Some(name.rsplit_once('-')?.1.parse::<u64>().ok()? + index.parse::<u64>().ok()?)
        };
        lines.lines().filter_map(task).collect()
    }

    /// Stops a node as a power cut would: its daemon, its step daemons, and all that they started.
    fn lose(&mut self, node: &str) {
        let jobs = self.ask("squeue", &["-h", "-w", node, "-t", "running", "-o", "%A"]);
        if let Some(mut daemon) = self.daemons.remove(node) {
            daemon.kill().unwrap();
            daemon.wait().unwrap();
        }
        for job in jobs.split_whitespace() {
            let step = format!("slurmstepd: [{job}.");
            let all = processes();
            all.iter()
                .filter(|process| process.name.contains(&step))
                .for_each(|step| step.kill_tree(&all));
        }
    }

    /// The scheduler's job-completion record: in which states each task left a node.
    fn record(&self) -> BTreeMap<u64, Vec<String>> {
        let text = fs::read_to_string(self.path("jobcomp.log")).unwrap_or_default();
        let field = |line: &str, name: &str| {
            Some(line.split_once(name)?.1.split_whitespace().next()?.to_owned())
        };
        let entry = |line: &str| {
            let offset: u64 = field(line, " Name=")?.rsplit_once('-')?.1.parse().ok()?;
            let index: u64 = field(line, "ArrayTaskId=")?.parse().ok()?;
            Some((offset + index, field(line, "JobState=")?))
        };
        let mut record: BTreeMap<u64, Vec<String>> = BTreeMap::new();
        for (task, state) in text.lines().filter_map(entry) {
            record.entry(task).or_default().push(state);
        }
        record
    }

    /// How often each state is in it.
    fn states(&self) -> BTreeMap<String, usize> {
        let mut states = BTreeMap::new();
        for state in self.record().into_values().flatten() {
            *states.entry(state).or_default() += 1;
        }
        states
    }

    /// Tasks that it calls completed, each as often as it does. It is written a little after the queue.
    fn completed(&self, expected: usize) -> BTreeMap<u64, usize> {
        let end = Instant::now() + Duration::from_secs(15);
        loop {
            let times =
                |states: &Vec<String>| states.iter().filter(|state| *state == "COMPLETED").count();
            let mut completed: BTreeMap<u64, usize> =
                self.record().iter().map(|(task, states)| (*task, times(states))).collect();
            completed.retain(|_, times| *times > 0);
            if completed.len() >= expected || Instant::now() > end {
                return completed;
            }
            sleep(Duration::from_millis(500));
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.ask("scancel", &["--user=root"]);
        for daemon in self.daemons.values_mut().rev() {
            let _ = Command::new("kill").arg(daemon.id().to_string()).status();
            sleep(Duration::from_millis(50));
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

struct Process {
    id: u32,
    parent: u32,
    name: String,
}

impl Process {
    fn kill(&self) {
        // It may have ended by itself.
        let _ =
            Command::new("kill").args(["-9", &self.id.to_string()]).stderr(Stdio::null()).status();
    }

    /// Parents first, so that nobody notices a child that is gone.
    fn kill_tree(&self, all: &[Process]) {
        self.kill();
        all.iter().filter(|child| child.parent == self.id).for_each(|child| child.kill_tree(all));
    }
}

fn processes() -> Vec<Process> {
    let read = |id: u32| {
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
        let name = fs::read(format!("/proc/{id}/cmdline")).ok()?;
        let name = String::from_utf8_lossy(&name).replace('\0', " ");
        Some(Process { id, parent, name })
    };
    let entries = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    entries.filter_map(|entry| read(entry.file_name().to_str()?.parse().ok()?)).collect()
}

struct Campaign<'c> {
    cluster: &'c Cluster,
    plan: PathBuf,
}

impl Campaign<'_> {
    fn call(&self, call: &[&str]) -> Output {
        let mut command = self.cluster.command(env!("CARGO_BIN_EXE_kpkeys"));
        command.arg("campaign").arg(call[0]).arg(&self.plan).args(&call[1..]).output().unwrap()
    }

    fn status(&self) -> Value {
        let output = self.call(&["status", "--format=json"]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{text}"))
    }

    /// The status, which must agree with the queue before and after.
    fn status_that_agrees(&self) -> Value {
        let before = self.cluster.queue();
        let status = self.status();
        let after = self.cluster.queue();
        let done = numbers(&status["done"]);
        let queued: BTreeSet<u64> = &numbers(&status["running"]) | &numbers(&status["waiting"]);
        let always: BTreeSet<u64> = &(&before & &after) - &done;
        let ever = &before | &after;
        assert!(
            always.is_subset(&queued),
            "in the queue, and status does not say so: {:?}",
            &always - &queued
        );
        assert!(
            queued.is_subset(&ever),
            "not in the queue, and status says so: {:?}",
            &queued - &ever
        );
        let all = done.len()
            + queued.len()
            + numbers(&status["missing"]).len()
            + status["failed"].as_array().unwrap().len();
        assert_eq!(all, TASKS, "each task is in one place");
        status
    }

    fn folder(&self) -> PathBuf {
        self.plan.with_file_name("thousand")
    }
}

fn numbers(value: &Value) -> BTreeSet<u64> {
    value.as_array().unwrap().iter().map(|number| number.as_u64().unwrap()).collect()
}

fn assert_ok(output: &Output) {
    let (out, error) = (&output.stdout, &output.stderr);
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(out),
        String::from_utf8_lossy(error)
    );
}

/// How often each block of each mode is in a sample file.
fn blocks(samples: &Path) -> BTreeMap<(String, u64), usize> {
    let text = fs::read_to_string(samples).unwrap();
    let mut found = BTreeMap::new();
    for record in text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()) {
        if record["kind"] == "done" {
            let mode = record["mode"].as_str().unwrap().to_owned();
            *found.entry((mode, record["block"].as_u64().unwrap())).or_default() += 1;
        }
    }
    found
}

#[test]
#[ignore = "takes a Slurm, root and minutes: cargo xtask slurm"]
fn a_thousand_tasks_are_all_there_once() {
    let mut cluster = Cluster::start();
    let plan = cluster.path("plan.toml");
    fs::write(&plan, PLAN).unwrap();

    // A partition that does not exist begins nothing.
    fs::write(&plan, PLAN.replace("partition = \"beta\"", "partition = \"gamma\"")).unwrap();
    let campaign = Campaign { cluster: &cluster, plan: plan.clone() };
    let refused = campaign.call(&["submit"]);
    assert_eq!(refused.status.code(), Some(2));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("unknown partition `gamma`; expected one of: alpha, beta"), "{said}");
    assert!(!campaign.folder().exists());
    fs::write(&plan, PLAN).unwrap();

    let begun = Instant::now();
    assert_ok(&campaign.call(&["submit"]));
    eprintln!("submitted in {:.1?}", begun.elapsed());
    assert_ok(&campaign.call(&["submit"]));
    assert_eq!(
        cluster.queue().len() + numbers(&campaign.status()["done"]).len(),
        TASKS,
        "once each"
    );

    let (mut killed, mut lost, mut looks, mut slowest) =
        (BTreeSet::new(), false, 0, Duration::ZERO);
    loop {
        let campaign = Campaign { cluster: &cluster, plan: plan.clone() };
        let look = Instant::now();
        let status = campaign.status_that_agrees();
        (looks, slowest) = (looks + 1, slowest.max(look.elapsed()));
        let done = numbers(&status["done"]).len();
        if status["running"].as_array().unwrap().is_empty()
            && status["waiting"].as_array().unwrap().is_empty()
        {
            break;
        }
        // Whatever is being carried out now, each task once.
        for task in numbers(&status["running"]) {
            let process = fs::read_to_string(campaign.folder().join(format!("locks/{task}")))
                .unwrap_or_default();
            let at_it = processes().into_iter().find(|found| {
                found.id.to_string() == process
                    && found
                        .name
                        .ends_with(&format!("task {} {task} ", campaign.folder().display()))
            });
            if let Some(process) =
                at_it.filter(|_| killed.len() < KILLED && !killed.contains(&task))
            {
                process.kill();
                killed.insert(task);
            }
        }
        if !lost && done > TASKS / 3 {
            eprintln!("node n8 is lost after {done} tasks");
            cluster.lose("n8");
            lost = true;
        }
        assert!(begun.elapsed() < LONGEST, "{status}");
        sleep(Duration::from_millis(300));
    }
    let campaign = Campaign { cluster: &cluster, plan: plan.clone() };
    let status = campaign.status_that_agrees();
    let failed = status["failed"].as_array().unwrap();
    eprintln!(
        "the queue is empty after {:.0?}: {} done, {} failed, {} not begun; {} killed; {looks} looks at the status, the slowest {slowest:.1?}; by the scheduler: {:?}",
        begun.elapsed(),
        numbers(&status["done"]).len(),
        failed.len(),
        numbers(&status["missing"]).len(),
        killed.len(),
        cluster.states()
    );
    assert!(lost && killed.len() == KILLED, "{} were killed", killed.len());
    assert!(failed.iter().all(|failed| Path::new(failed["log"].as_str().unwrap()).exists()));
    // Where one was killed between its result and its end, the result is there and the scheduler calls it failed.
    let done = numbers(&status["done"]);
    let by_scheduler: BTreeSet<u64> = cluster.completed(done.len()).into_keys().collect();
    assert!(by_scheduler.is_subset(&done), "completed, and not done: {:?}", &by_scheduler - &done);
    let late = &done - &by_scheduler;
    assert!(late.is_subset(&killed), "done, and not completed: {late:?}");

    assert_eq!(
        campaign.call(&["collect", "--resubmit"]).status.code(),
        Some(1),
        "not all is there"
    );
    while !cluster.queue().is_empty() {
        assert!(begun.elapsed() < LONGEST, "the queue does not get empty");
        sleep(Duration::from_millis(500));
    }
    let end = Instant::now();
    let collected = campaign.call(&["collect"]);
    eprintln!("collected in {:.1?}", end.elapsed());
    let status = campaign.status_that_agrees();
    assert_eq!(numbers(&status["done"]).len(), TASKS, "{status}");
    let states = cluster.states();
    eprintln!("all there after {:.0?}; by the scheduler: {states:?}", begun.elapsed());
    let completed = cluster.completed(TASKS - late.len());
    assert!(completed.values().all(|times| *times == 1), "each was completed once: {completed:?}");
    assert_eq!(completed.len(), TASKS - late.len(), "by the scheduler's own record");

    let mut gates_hold = true;
    for machine in ["alpha", "beta"] {
        let place = campaign.folder().join("collected/ram").join(machine);
        let found = blocks(&place.join("samples.jsonl"));
        let of = |mode: &str| {
            found
                .iter()
                .filter(|((found, _), _)| found == mode)
                .map(|(_, times)| *times)
                .collect::<Vec<_>>()
        };
        for mode in ["off", "aa", "batched"] {
            assert_eq!(of(mode), vec![1; BLOCKS], "{machine} {mode}");
        }
        let table: Value =
            serde_json::from_slice(&fs::read(place.join("table.json")).unwrap()).unwrap();
        assert_eq!(table["blocks"], BLOCKS);
        gates_hold &= table["gates"]["aa"] != "fail";
    }
    // Eight at a time on this machine measure each other: one table in twenty is void by chance, and that is said.
    assert_eq!(collected.status.code(), Some(i32::from(!gates_hold)));
    let printed = String::from_utf8_lossy(&collected.stdout).into_owned();
    assert!(printed.contains("ram, machine by machine:"), "{printed}");
    assert!(printed.contains("printed on beta: 400 of 400 calls held"), "{printed}");
    println!("{printed}");
}
