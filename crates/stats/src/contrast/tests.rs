//! Synthetic runs with known changes.

use super::*;
use crate::cost::CostModel;
use crate::fixture::{done, run, sample};
use crate::record::{Origin, Record, Recording};
use crate::table::Table;
use rand::{Rng, SeedableRng, rngs::SmallRng};

const MODES: [Mode; 2] = [Mode::Off, Mode::Batched];

/// Runs of two rows over blocks whose speed changes by a fifth from one to the next. In a session both runs see the same speeds.
struct Lab {
    random: SmallRng,
    blocks: u32,
    noise: f64,
}

/// How much longer than usual one row takes in each mode.
#[derive(Clone, Copy)]
struct Slower {
    off: f64,
    batched: f64,
}

const AS_EVER: Slower = Slower { off: 1.0, batched: 1.0 };

impl Lab {
    fn new(seed: u64, blocks: u32, noise: f64) -> Self {
        Lab { random: SmallRng::seed_from_u64(seed), blocks, noise }
    }

    fn speeds(&mut self) -> Vec<f64> {
        (0..self.blocks).map(|_| 1.0 + self.random.random_range(0.0..0.2)).collect()
    }

    fn side(&mut self, name: &str, session: Option<&str>, speeds: &[f64], slower: Slower) -> Side {
        let mut header = run(self.blocks);
        header.origin = Some(Origin {
            commit: None,
            build_hash: "one build".into(),
            inputs: [].into(),
            started: String::new(),
            rows: vec![],
            modes: MODES.to_vec(),
            session: session.map(str::to_owned),
        });
        let mut records = Vec::new();
        for (block, speed) in (0..).zip(speeds) {
            for mode in MODES {
                for (row, factor) in [("fork: h:0", Some(slower)), ("fork: h:1", None)] {
                    let factor = factor.unwrap_or(AS_EVER);
                    let factor = if mode == Mode::Off { factor.off } else { 1.05 * factor.batched };
                    let noise = 1.0 + self.random.random_range(-self.noise..=self.noise);
                    let mut sample = sample(mode, block, 1e6 * speed * factor * noise);
                    sample.result_class = row.into();
                    records.push(Record::Sample(sample));
                }
                records.push(done(mode, block));
            }
        }
        let recording = Recording::new(header, records).unwrap();
        let table = Table::build(&recording, &CostModel::graviton3([])).unwrap();
        Side::of_recording(name, &recording, &table).unwrap()
    }

    /// Two builds that took turns.
    fn session(&mut self, slower: Slower) -> Contrast {
        let speeds = self.speeds();
        let before = self.side("a", Some("s"), &speeds, AS_EVER);
        let after = self.side("b", Some("s"), &speeds, slower);
        Contrast::of(&before, &after, &question(&[]))
    }

    /// Two runs at two times.
    fn apart(&mut self, slower: Slower, accepted: &[Condition]) -> Contrast {
        let (first, second) = (self.speeds(), self.speeds());
        let before = self.side("a", None, &first, AS_EVER);
        let after = self.side("b", None, &second, slower);
        Contrast::of(&before, &after, &question(accepted))
    }
}

fn question(accepted: &[Condition]) -> Question {
    Question { equal_pct: 1.0, accepted: accepted.to_vec(), seed: 1 }
}

fn find<'c>(contrast: &'c Contrast, row: &str, mode: Mode, measure: Measure) -> &'c Change {
    let mut changes = contrast.changes();
    let named = |(of, change): &(&ContrastRow, &Change)| {
        (of.result_class.as_str(), change.mode, change.measure) == (row, mode, measure)
    };
    changes.find(named).expect("it was compared").1
}

#[test]
fn builds_that_take_turns_are_told_apart_by_three_percent_of_one_row() {
    let contrast = Lab::new(1, 12, 0.01).session(Slower { off: 1.03, batched: 1.03 });
    assert!(contrast.paired && contrast.conclusive && contrast.can_decide);
    for mode in MODES {
        let change = find(&contrast, "fork: h:0", mode, Measure::Time);
        assert_eq!(change.verdict, Some(Verdict::Slower), "{change:?}");
        assert!((2.0..4.0).contains(&change.change_pct), "{change:?}");
        let other = find(&contrast, "fork: h:1", mode, Measure::Time);
        assert_ne!(other.verdict, Some(Verdict::Slower), "{other:?}");
    }
    let effect = find(&contrast, "fork: h:0", Mode::Batched, Measure::Effect);
    assert_ne!(effect.verdict, Some(Verdict::Slower), "both modes are slower alike: {effect:?}");
}

#[test]
fn one_build_twice_is_the_same() {
    let contrast = Lab::new(2, 12, 0.005).session(AS_EVER);
    let mut verdicts = contrast.changes().map(|(_, change)| change.verdict);
    assert!(verdicts.all(|verdict| verdict == Some(Verdict::Same)), "{contrast:?}");
}

/// One comparison in twenty may be wrong by chance, and no more.
#[test]
fn false_alarms_are_as_rare_as_promised() {
    let mut alarms = 0;
    for seed in 0..400 {
        // Noise so large that nothing can be shown to be the same.
        let contrast = Lab::new(seed, 12, 0.1).session(AS_EVER);
        let flagged = |change: &Change| {
            change.measure == Measure::Time
                && matches!(change.verdict, Some(Verdict::Slower | Verdict::Faster))
        };
        alarms += usize::from(contrast.changes().any(|(_, change)| flagged(change)));
    }
    // 20 are expected at most; 34 is three standard deviations above.
    assert!(alarms <= 34, "{alarms} of 400");
}

#[test]
fn of_separate_runs_effects_are_judged_and_times_are_not() {
    let contrast = Lab::new(3, 12, 0.005).apart(Slower { off: 1.0, batched: 1.04 }, &[]);
    assert!(!contrast.paired && contrast.conclusive && contrast.can_decide);
    let effect = find(&contrast, "fork: h:0", Mode::Batched, Measure::Effect);
    assert_eq!(effect.verdict, Some(Verdict::Slower), "{effect:?}");
    assert!((3.0..5.0).contains(&effect.change_pct), "{effect:?}");
    assert!((4.0..6.0).contains(&effect.before.unwrap()), "{effect:?}");
    assert!((8.0..10.5).contains(&effect.after.unwrap()), "{effect:?}");
    let time = find(&contrast, "fork: h:0", Mode::Batched, Measure::Time);
    assert_eq!(time.verdict, None);
    assert!(time.p.is_some() && time.ci_low_pct.is_some(), "shown all the same");
}

#[test]
fn rows_of_a_benchmark_are_judged_together() {
    let contrast = Lab::new(4, 12, 0.005).session(Slower { off: 1.06, batched: 1.0 });
    let [group] = contrast.groups.as_slice() else { panic!("{:?}", contrast.groups) };
    assert_eq!((group.benchmark.as_str(), group.rows), ("fork", 2));
    let off = group.changes.iter().find(|change| change.mode == Mode::Off).unwrap();
    // The geometric mean of 1.06 and 1.
    assert!((off.change_pct - 2.96).abs() < 0.5, "{off:?}");
    assert_eq!(off.verdict, Some(Verdict::Slower));
}

#[test]
fn nothing_is_concluded_where_something_else_differs() {
    let mut lab = Lab::new(5, 12, 0.005);
    let speeds = lab.speeds();
    let before = lab.side("a", None, &speeds, AS_EVER);
    let mut after = lab.side("b", None, &speeds, Slower { off: 1.0, batched: 1.2 });
    let mut other = run(12);
    other.machine.cpu = "another".into();
    after.conditions = crate::conditions::Conditions::of_run(&other);
    after.rows.pop();
    let contrast = Contrast::of(&before, &after, &question(&[]));
    assert!(!contrast.conclusive);
    assert!(contrast.changes().all(|(_, change)| change.verdict.is_none()));
    let told: Vec<String> = contrast.differences.iter().map(ToString::to_string).collect();
    assert!(told.contains(&"machine, cpu: example / another".to_owned()), "{told:?}");
    assert!(told.contains(&"rows: also fork: h:1 / no others".to_owned()), "{told:?}");
    let all = Condition::ALL;
    let meant = Contrast::of(&before, &after, &question(&all));
    assert!(meant.conclusive && meant.differences.iter().all(|difference| difference.accepted));
    let effect = find(&meant, "fork: h:0", Mode::Batched, Measure::Effect);
    assert_eq!(effect.verdict, Some(Verdict::Slower));
}

#[test]
fn few_blocks_prove_nothing_and_say_so() {
    let contrast = Lab::new(6, 4, 0.005).session(Slower { off: 1.5, batched: 1.5 });
    assert!(!contrast.can_decide);
    let off = find(&contrast, "fork: h:0", Mode::Off, Measure::Time);
    assert_eq!(off.verdict, Some(Verdict::Undecided), "{off:?}");
}

#[test]
fn a_published_table_is_set_beside_and_proves_nothing() {
    let mut lab = Lab::new(7, 12, 0.005);
    let speeds = lab.speeds();
    let here = lab.side("here", None, &speeds, AS_EVER);
    let table = {
        let effect = crate::compare::ReferenceEffect {
            effect_pct: 3.0,
            flag: None,
            ci_low_pct: None,
            ci_high_pct: None,
        };
        let row = crate::compare::ReferenceRow {
            benchmark: "fork".into(),
            result_class: "fork: h:0".into(),
            modes: BTreeMap::from([(Mode::Batched, effect)]),
        };
        crate::compare::Reference { name: "p".into(), note: "elsewhere".into(), rows: vec![row] }
    };
    let contrast = Contrast::of(&here, &Side::of_reference(&table), &question(&Condition::ALL));
    let effect = find(&contrast, "fork: h:0", Mode::Batched, Measure::Effect);
    assert_eq!((effect.after, effect.verdict, effect.p), (Some(3.0), None, None));
    assert!((effect.change_pct + 1.9).abs() < 0.3, "1.03 / 1.05: {effect:?}");
}
