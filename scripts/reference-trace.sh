#!/bin/sh
# Records the reference trace that the kernbench rows replay: `make -j2` of zstd's library (BSD licence), from the source package of
# Debian 12, with the distribution's gcc. Its 33 files are as heavy to compile as a kernel's.
#
#   scripts/reference-trace.sh [FILE]        default: crates/cli/data/kernbench.trace
#
# Needs Debian or a derivative, gcc, make, dpkg-dev, and what the perf method of `kpkeys trace record` needs. The package is fetched
# with package lists of its own, in a temporary folder; nothing is installed. Where it may, the build runs at real-time
# priority: durations in a trace are elapsed time, and what else runs on the machine must not be in them.
set -eu

package=libzstd
version=1.5.4+dfsg2-5

root=$(cd "$(dirname "$0")/.." && pwd)
out=$(realpath -m "${1:-$root/crates/cli/data/kernbench.trace}")

cargo build --release --manifest-path "$root/Cargo.toml" -p kpkeys-cli
kpkeys=$(realpath "${CARGO_TARGET_DIR:-$root/target}")/release/kpkeys

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
mkdir -p "$work/lists/partial" "$work/archives/partial" "$work/sources.d" "$work/tree"

# The machine's own package sources, asked for source packages.
for list in /etc/apt/sources.list.d/*.sources; do
    [ ! -e "$list" ] || sed 's/^Types:.*/Types: deb-src/' "$list" > "$work/sources.d/$(basename "$list")"
done
for list in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
    [ ! -e "$list" ] || sed 's/^deb /deb-src /' "$list" > "$work/sources.d/$(basename "$list" .list).list"
done
apt() {
    apt-get -q -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$work/sources.d" \
        -o Dir::State::lists="$work/lists" -o Dir::Cache="$work" "$@"
}
apt update
cd "$work/tree"
apt source "$package=$version"
cd "$package"-*/

# Once unrecorded, so that compiler and sources are in the page cache.
build='make -B -j2 -C lib libzstd.a'
$build > "$work/log"
urgently=
chrt --rr 1 true 2> "$work/log" && urgently='chrt --rr 1'
$urgently "$kpkeys" trace record --method perf --compare -o "$out" -- $build > "$work/log"
"$kpkeys" trace info "$out"
