#!/usr/bin/env bash
# Fuzzes one target after the other, from its seeds, the committed corpus and what earlier runs found:
#     fuzz/run.sh SECONDS [TARGET...]
# Needs cargo-fuzz (`cargo install cargo-fuzz`) and a C++ compiler. An input that fails is left in
# fuzz/artifacts/TARGET.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:?expected the seconds for each target}
shift
[ "$#" -gt 0 ] || set -- kv index selection configuration
# The sanitizers are unstable features of the compiler.
export RUSTC_BOOTSTRAP=1

RUSTC_BOOTSTRAP=0 cargo run --quiet -p keysieve-tests --example fuzz_seeds -- fuzz/work
for target in "$@"; do
    # cargo-fuzz makes the corpus folder; inputs of more than 4 KiB find nothing that shorter ones do not.
    cargo fuzz run "$target" "fuzz/work/$target" "fuzz/corpus/$target" -- \
        -max_total_time="$seconds" -max_len=4096 -timeout=30 -rss_limit_mb=2048 -print_final_stats=1
done
