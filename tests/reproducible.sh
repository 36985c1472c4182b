#!/usr/bin/env bash
# Builds what ships twice and compares the bytes. Everything differs that may differ between two machines: the source's
# folder, the target folder, cargo's home, user settings, time zone, language and the number of jobs. The compiler may not.
# What is built is the last commit. Takes two whole release builds.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
readonly home=${CARGO_HOME:-$HOME/.cargo}
work=$(mktemp -d)
readonly work
trap 'rm -rf "$work"' EXIT

say() { printf 'reproducible: %s\n' "$*"; }

# A build of its own: its name, the number of jobs, then variables of the environment.
build() {
    local name=$1 jobs=$2 folder
    shift 2
    folder=$work/$name/source
    mkdir -p "$folder" "$work/$name/home"
    git archive HEAD | tar -x -C "$folder"
    # What was fetched is shared; only the name of its folder is another.
    ln -s "$home/registry" "$work/$name/home/registry"
    # Files are as old as they may be on another machine.
    find "$folder" -type f -exec touch -d "$((jobs + 1)) days ago" {} +
    say "the $name build, in $folder"
    env CARGO_HOME="$work/$name/home" CARGO_TARGET_DIR="$work/$name/target" CARGO_BUILD_JOBS="$jobs" "$@" \
        make --no-print-directory -C "$folder" release
}

binary() { printf '%s/%s/target/release/wasend-gateway' "$work" "$1"; }

cargo fetch --locked
build first "$(nproc)" TZ=UTC LC_ALL=C
build another-and-longer-named 1 TZ=Pacific/Kiritimati LC_ALL=C.UTF-8
sha256sum "$(binary first)" "$(binary another-and-longer-named)"
if ! cmp "$(binary first)" "$(binary another-and-longer-named)"; then
    say "FAILED: the two builds differ" >&2
    exit 1
fi
# The same bytes can still tell of this machine, where both were built.
for place in "$work" "$PWD" "$home"; do
    if grep -qF -e "$place" "$(binary first)"; then
        say "FAILED: the binary tells where it was built: $(strings "$(binary first)" | grep -F -m1 -e "$place")" >&2
        exit 1
    fi
done
say "ok: both builds are the same bytes, $(stat -c %s "$(binary first)") of them"
