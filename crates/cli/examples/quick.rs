//! scratch
use kpkeys_hosted::{Setup, boot};
use kpkeys_pgtable::{Config, Mode, entry::Aarch64};
use kpkeys_workloads::{ALL_ROWS, Clock, run};
struct C(std::time::Instant);
impl Clock for C {
    fn now_ns(&self) -> u64 {
        self.0.elapsed().as_nanos() as u64
    }
}
fn main() {
    let c = C(std::time::Instant::now());
    println!("{:45} {:>10} {:>10} {:>10} {:>10}", "row", "off", "unb", "bat", "fused");
    let filter = std::env::args().nth(1).unwrap_or_default();
    let reps: usize = std::env::args().nth(2).map_or(3, |n| n.parse().unwrap());
    let only = std::env::args().nth(3);
    for row in ALL_ROWS.into_iter().filter(|r| r.result_class.contains(&filter)) {
        let mut best = [f64::MAX; 4];
        for _ in 0..reps {
            for (i, mode) in Mode::ALL.into_iter().enumerate() {
                if only.as_deref().is_some_and(|o| o != mode.name()) {
                    continue;
                }
                let k =
                    boot::<Aarch64>(Setup { pages: 1 << 19, cpus: 2, config: Config::of(mode) })
                        .unwrap();
                for _ in 0..3 {
                    let t = run(&k, &c, &row, 10).unwrap();
                    best[i] = best[i].min(t.ns as f64 / t.operations as f64);
                }
            }
        }
        println!(
            "{:45} {:10.1} {:10.1}% {:10.2}% {:10.2}%",
            row.result_class,
            best[0],
            (best[1] / best[0] - 1.) * 100.,
            (best[2] / best[0] - 1.) * 100.,
            (best[3] / best[0] - 1.) * 100.
        );
    }
}
