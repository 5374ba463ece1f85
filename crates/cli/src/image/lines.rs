//! The command lines that measure: every row in every mode, block after block, each mode in a boot of its own and in an order drawn from a
//! seed, as [`kpkeys bench`](crate::bench) has it with processes. `kpkeys bench --import` reads what comes of them.

use kpkeys_stats::record::Mode;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;

use crate::bench::plan::Effort;

/// The lines of a run: counts first, so that something is there early, then the blocks.
pub fn of_run(effort: Effort, seed: u64) -> Vec<String> {
    let (scale, iterations) = (effort.scale(), effort.turns().0);
    let counted = [Mode::Off].into_iter().chain(Mode::PROTECTING);
    let mut lines: Vec<String> =
        counted.map(|mode| format!("count=all scale={scale} mode={mode}")).collect();
    let mut order = SmallRng::seed_from_u64(seed);
    for block in 0..effort.blocks() {
        let mut modes: Vec<Mode> =
            [Mode::Off, Mode::Aa].into_iter().chain(Mode::PROTECTING).collect();
        modes.shuffle(&mut order);
        lines.extend(modes.into_iter().map(|mode| {
            let is = if mode == Mode::Aa { Mode::Off } else { mode };
            format!(
                "bench=all scale={scale} iterations={iterations} mode={is} label={mode}/{block}"
            )
        }));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_block_has_every_mode_and_the_twin() {
        let lines = of_run(Effort::Quick, 1);
        assert_eq!(lines.len(), 5 + 4 * 6);
        for block in 0..4 {
            let twin = format!(" mode=off label=aa/{block}");
            assert_eq!(lines.iter().filter(|line| line.ends_with(&twin)).count(), 1);
        }
        assert_ne!(lines[5..11], lines[11..17]);
    }
}
