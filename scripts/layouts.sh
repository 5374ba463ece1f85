#!/bin/sh
# Measures how much of an effect is due to where the compiler and the linker put the code: builds the command in several layouts, runs
# the same rows with each, block by block in turns, and writes what they gave as one table.
#
#   scripts/layouts.sh DIR [BENCH OPTION]...      such as: scripts/layouts.sh results/epyc
#                                                          scripts/layouts.sh /tmp/try --rows 'fork*' --quick
#
# Each layout's run is kept in DIR/LAYOUT; a script that was stopped goes on. BLOCKS (12, or 4 with --quick) is how many blocks each has.
# LAYOUTS can name fewer of them. The table, docs/results/spread-table.md or $TABLE, is written whole from the folders in DIR, and in those of $WITH: runs of other machines.
# Needs a quiet machine, and a few minutes to build each layout before the first block runs.
set -eu

[ $# -ge 1 ] || { sed -n '2,11s/^# \{0,1\}//p' "$0" >&2; exit 2; }
root=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$1"
out=$(cd "$1" && pwd)
shift
blocks=12
for option in "$@"; do [ "$option" != --quick ] || blocks=4; done
blocks=${BLOCKS:-$blocks}
table=${TABLE:-$root/docs/results/spread-table.md}
targets=${CARGO_TARGET_DIR:-$root/target}/layouts

# The order of functions in the program: the linker that rustc takes by default here can shuffle sections, or sort them by name.
echo 'fn main() {}' > "$out/.empty.rs"
shuffled='-C link-arg=-Wl,--shuffle-sections=.text*=1'
rustc $shuffled -o "$out/.empty" "$out/.empty.rs" 2> "$out/.errors" || shuffled='-C link-arg=-Wl,--sort-section=name'
rm -f "$out/.empty" "$out/.empty.rs" "$out/.errors"

layouts=${LAYOUTS:-as-built functions-at-32 functions-at-64 other-order}
flags() {
    case $1 in
        as-built) echo '' ;;
        functions-at-32) echo '-C llvm-args=-align-all-functions=5' ;;
        functions-at-64) echo '-C llvm-args=-align-all-functions=6' ;;
        other-order) echo "$shuffled" ;;
    esac
}

for layout in $layouts; do
    echo "building $layout" >&2
    RUSTFLAGS=$(flags "$layout") cargo build --release --quiet --manifest-path "$root/Cargo.toml" -p kpkeys-cli \
        --target-dir "$targets/$layout"
done

# One block of each in turn: what changes on the machine falls on all of them. The last call of each counts and makes its table.
block=1
while [ "$block" -le "$blocks" ]; do
    for layout in $layouts; do
        echo "block $block of $blocks: $layout" >&2
        # A table whose A/A gate failed is said to be void in what is merged; the others are still worth having.
        "$targets/$layout/release/kpkeys" bench "$@" --blocks "$blocks" --out "$out/$layout" --pause-after 1 --format json \
            > "$out/$layout.json" || [ -s "$out/$layout.json" ] || exit 1
    done
    block=$((block + 1))
done
for layout in $layouts; do rm -f "$out/$layout.json"; done

# shellcheck disable=SC2086 # WITH is a list of folders.
folders=$(for layout in $layouts; do echo "$out/$layout"; done)
"$targets/$layout/release/kpkeys" spread $folders ${WITH:-} --format markdown > "$table.new" || [ -s "$table.new" ] || exit 1
mv "$table.new" "$table"
"$targets/$layout/release/kpkeys" spread $folders ${WITH:-}
