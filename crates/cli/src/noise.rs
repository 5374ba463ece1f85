//! What disturbs a measurement: how the machine is set, and what else ran while blocks were measured.
//!
//! Reading happens in [`Settings::read`] and [`Activity::now`] alone; judging is done by functions of what was read, so that every
//! machine's judgement is tested on any machine. Of a quiet machine nothing is said.

use std::fs;

use kpkeys_stats::record::NoiseRecord;

use crate::emulation;

/// One thing that widens intervals, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disturbance {
    /// What it is.
    pub name: &'static str,
    /// What was found.
    pub found: String,
    /// What follows.
    pub consequence: &'static str,
    /// What helps.
    pub advice: &'static str,
}

/// How the machine is set, as far as it says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// How the program is translated for this CPU, if it is.
    pub translated: Option<String>,
    /// Processes that want a CPU, averaged over a minute.
    pub load: Option<f64>,
    /// CPUs this process may use.
    pub cpus: usize,
    /// The frequency governor of the measured CPU.
    pub governor: Option<String>,
    /// Hardware threads that share the measured CPU's core.
    pub siblings: Option<String>,
    /// The setting of transparent huge pages.
    pub huge_pages: Option<String>,
    /// Times a core was slowed for its heat since the system started.
    pub throttled: Option<u64>,
    /// Share of all CPU time since then that the hypervisor gave to others, in percent.
    pub steal_pct: Option<f64>,
}

impl Settings {
    /// Of the machine this runs on, measured on this CPU.
    pub fn read(cpu: usize) -> Settings {
        let of_cpu = |file: &str| text(&format!("/sys/devices/system/cpu/cpu{cpu}/{file}"));
        let load = text("/proc/loadavg");
        Settings {
            translated: emulation::translated(),
            load: load.and_then(|load| load.split(' ').next()?.parse().ok()),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            governor: of_cpu("cpufreq/scaling_governor"),
            siblings: of_cpu("topology/thread_siblings_list"),
            huge_pages: text("/sys/kernel/mm/transparent_hugepage/enabled"),
            throttled: throttled(cpu),
            steal_pct: ticks(&text("/proc/stat").unwrap_or_default())
                .map(|ticks| ticks.steal_pct()),
        }
    }

    /// What in them disturbs.
    pub fn disturbances(&self) -> Vec<Disturbance> {
        let translated = self.translated.as_ref().map(|found| Disturbance {
            name: "translation",
            found: found.clone(),
            consequence: "times are the translator's and say nothing of a CPU; counts hold",
            advice: "measure on a machine of that architecture",
        });
        let load = self.load.filter(|load| *load > 0.5).map(|load| Disturbance {
            name: "load",
            found: format!(
                "{load:.1} processes wanted a CPU in the last minute, of {} there are",
                self.cpus
            ),
            consequence: "intervals widen, and the A/A gate may fail",
            advice: "stop what else runs; --cpu N measures on a CPU of your choice",
        });
        let governor = self.governor.as_deref().filter(|name| *name != "performance");
        let governor = governor.map(|name| Disturbance {
            name: "governor",
            found: name.to_owned(),
            consequence: "the clock changes while a row is measured",
            advice: "cpupower frequency-set -g performance",
        });
        let shared = self.siblings.as_deref().filter(|list| list.contains([',', '-']));
        let siblings = shared.map(|list| Disturbance {
            name: "SMT",
            found: format!("the measured CPU shares its core: {list}"),
            consequence: "what runs on the other hardware thread slows it by half and more",
            advice: "keep the others idle, or echo off > /sys/devices/system/cpu/smt/control",
        });
        let always = self.huge_pages.as_deref().filter(|setting| setting.contains("[always]"));
        let huge_pages = always.map(|_| Disturbance {
            name: "huge pages",
            found: "always".to_owned(),
            consequence: "the host kernel's rows with single pages get huge ones",
            advice: "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
        });
        let throttled = self.throttled.filter(|times| *times > 0).map(|times| Disturbance {
            name: "heat",
            found: format!("the core was slowed {times} times since the system started"),
            consequence: "long runs slow down on the way",
            advice: "cool it, or lower the highest frequency to one it can hold",
        });
        let steal = self.steal_pct.filter(|share| *share > STEAL_PCT).map(|share| Disturbance {
            name: "steal",
            found: format!("{share:.1} % of the CPUs' time since the start went to other guests"),
            consequence: "a neighbour is measured too",
            advice: "choose a machine with CPUs of its own",
        });
        let all = [translated, load, governor, siblings, huge_pages, throttled, steal];
        all.into_iter().flatten().collect()
    }
}

/// More than this share given to other guests is a disturbance.
const STEAL_PCT: f64 = 1.0;

/// What the CPUs did up to a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Activity {
    ticks: Option<Ticks>,
    /// Of it, what this process and the children it has waited for did.
    own: Option<u64>,
    throttled: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Ticks {
    busy: u64,
    idle: u64,
    steal: u64,
}

impl Ticks {
    fn all(self) -> u64 {
        self.busy + self.idle + self.steal
    }

    fn steal_pct(self) -> f64 {
        self.steal as f64 / self.all().max(1) as f64 * 100.0
    }
}

impl Activity {
    /// Up to now.
    pub fn now(cpu: usize) -> Activity {
        Activity {
            ticks: text("/proc/stat").and_then(|stat| ticks(&stat)),
            own: text("/proc/self/stat").and_then(|stat| own_ticks(&stat)),
            throttled: throttled(cpu),
        }
    }

    /// What else happened from an earlier moment to this one, for the record of a block.
    pub fn since(&self, earlier: &Activity, block: u32) -> NoiseRecord {
        let of = |now: Option<u64>, was: Option<u64>| Some(now?.saturating_sub(was?));
        let ticks = self.ticks.zip(earlier.ticks).map(|(now, was)| Ticks {
            busy: now.busy.saturating_sub(was.busy),
            idle: now.idle.saturating_sub(was.idle),
            steal: now.steal.saturating_sub(was.steal),
        });
        let share = |ticks: Ticks, part: u64| part as f64 / ticks.all().max(1) as f64 * 100.0;
        let others = ticks.zip(of(self.own, earlier.own));
        NoiseRecord {
            block,
            steal_pct: ticks.map(Ticks::steal_pct),
            others_pct: others.map(|(ticks, own)| share(ticks, ticks.busy.saturating_sub(own))),
            throttled: of(self.throttled, earlier.throttled),
        }
    }
}

fn text(path: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

fn throttled(cpu: usize) -> Option<u64> {
    let file = format!("/sys/devices/system/cpu/cpu{cpu}/thermal_throttle/core_throttle_count");
    text(&file)?.parse().ok()
}

/// The line of all CPUs in `/proc/stat`: user, nice, system, idle, iowait, irq, softirq, steal (proc(5)).
fn ticks(stat: &str) -> Option<Ticks> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let numbers: Vec<u64> = line.split_whitespace().map_while(|field| field.parse().ok()).collect();
    let [user, nice, system, idle, iowait, irq, softirq, steal, ..] = numbers.as_slice() else {
        return None;
    };
    Some(Ticks { busy: user + nice + system + irq + softirq, idle: idle + iowait, steal: *steal })
}

/// `utime`, `stime`, `cutime` and `cstime` of `/proc/self/stat`, fields 14 to 17 (proc(5)); the name before them may hold anything.
fn own_ticks(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    fields.get(11..15)?.iter().map(|field| field.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quiet() -> Settings {
        Settings {
            translated: None,
            load: Some(0.1),
            cpus: 8,
            governor: Some("performance".into()),
            siblings: Some("3".into()),
            huge_pages: Some("always [madvise] never".into()),
            throttled: Some(0),
            steal_pct: Some(0.2),
        }
    }

    #[test]
    fn of_a_quiet_machine_nothing_is_said() {
        assert_eq!(quiet().disturbances(), []);
        assert_eq!(Settings::default().disturbances(), [], "what is not known does not disturb");
    }

    #[test]
    fn everything_that_disturbs_is_named_with_what_helps() {
        let loud = Settings {
            translated: Some("this program is for aarch64, and the kernel runs on x86_64".into()),
            load: Some(3.2),
            cpus: 8,
            governor: Some("powersave".into()),
            siblings: Some("0,4".into()),
            huge_pages: Some("[always] madvise never".into()),
            throttled: Some(7),
            steal_pct: Some(4.5),
        };
        let found = loud.disturbances();
        let names: Vec<&str> = found.iter().map(|disturbance| disturbance.name).collect();
        assert_eq!(
            names,
            ["translation", "load", "governor", "SMT", "huge pages", "heat", "steal"]
        );
        assert!(found.iter().all(|disturbance| !disturbance.advice.is_empty()));
    }

    #[test]
    fn what_others_did_is_all_there_was_without_ones_own() {
        let at = |busy, idle, steal, own| Activity {
            ticks: Some(Ticks { busy, idle, steal }),
            own: Some(own),
            throttled: Some(1),
        };
        let noise = at(1100, 2080, 20, 550).since(&at(1000, 2000, 0, 500), 3);
        assert_eq!(noise.block, 3);
        assert_eq!((noise.steal_pct, noise.others_pct), (Some(10.0), Some(25.0)));
        assert_eq!(noise.throttled, Some(0));
        let unknown = Activity::default().since(&at(0, 0, 0, 0), 0);
        assert_eq!((unknown.steal_pct, unknown.others_pct, unknown.throttled), (None, None, None));
    }

    #[test]
    fn the_kernels_files_are_read_as_they_are_documented() {
        let stat = "cpu  10 1 5 100 4 2 3 7 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n";
        assert_eq!(ticks(stat), Some(Ticks { busy: 21, idle: 104, steal: 7 }));
        assert_eq!(ticks("intr 5"), None);
        let own = "42 (a) b) S 1 2 3 4 5 6 7 8 9 10 100 20 3 4 20 0 1 0";
        assert_eq!(own_ticks(own), Some(127));
    }
}
