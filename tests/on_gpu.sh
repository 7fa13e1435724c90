#!/usr/bin/env bash
# Checks keysieve on a machine with a GPU and no Rust: the folder that `cargo xtask device-bundle` made,
# copied there. Usage: tests/on_gpu.sh BUNDLE OUT check|sanitize|time|tune...
# Every command has a limit: a kernel that hangs takes the GPU with it.
set -uo pipefail
bundle=$(realpath "$1"); mkdir -p "$2"; out=$(realpath "$2"); shift 2
export KEYSIEVE_REQUIRE_GPU=1
failures=0

# step NAME SECONDS COMMAND...: the command's output in OUT/NAME.log, its end and its time here.
step() {
    local name=$1 limit=$2 start=$SECONDS; shift 2
    timeout --kill-after=5 "$limit" "$@" >"$out/$name.log" 2>&1
    local status=$?
    [ $status -eq 0 ] || { failures=$((failures + 1)); tail -n 30 "$out/$name.log"; }
    printf '== %-28s status %d, %d s: %s\n' "$name" $status $((SECONDS - start)) \
        "$(grep -E '^test result|ERROR SUMMARY|RACECHECK SUMMARY' "$out/$name.log" | tail -n 1)"
}

check() {
    local stage
    step doctor 30 "$bundle/keysieve" doctor
    for stage in codes lut scores aggregate top_k index_list weights step merge ragged training drift; do
        PROPTEST_CASES=${CASES:-2000} step "$stage" 240 "$bundle/$stage" cuda::
        grep -E ' cases, seed' "$out/$stage.log"
    done
    for stage in tuple_counts tuple_blocks; do
        step "$stage" 60 "$bundle/$stage" cuda::
    done
    step contract 120 "$bundle/contract"
    step lost_context 30 "$bundle/lost_context"
    same_files
}

# The same index and queries give the same bytes from both backends, on real keys.
same_files() {
    local kv=$bundle/data/minilm_kv.safetensors dir=$out/same_files backend options
    mkdir -p "$dir"
    for options in "2 6" "8 8"; do
        set -- $options
        step "train-$1-$2" 300 "$bundle/keysieve" train --kv "$kv" --out "$dir/index" \
            --subvectors "$1" --bits "$2" --quiet
        for backend in cpu cuda; do
            step "select-$1-$2-$backend" 60 "$bundle/keysieve" select --index "$dir/index" --kv "$kv" \
                --out "$dir/$backend" --backend $backend --quiet
        done
        step "same-$1-$2" 10 cmp "$dir/cpu" "$dir/cuda"
        sha256sum "$dir/cpu" "$dir/cuda"
        step "eval-$1-$2-cuda" 300 "$bundle/keysieve" eval --kv "$kv" --subvectors "$1" --bits "$2" \
            --backend cuda --quiet
        cat "$out/eval-$1-$2-cuda.log"
    done
    step demo 60 "$bundle/keysieve" demo --backend cuda
    rm -r "$dir"
}

# Every kernel under the four tools; fewer cases and no large ones, as each is a hundred times slower.
sanitize() {
    local tool stage cases
    for tool in memcheck racecheck synccheck initcheck; do
        for stage in codes lut scores aggregate top_k index_list weights step ragged drift; do
            # The fused step's races are the slowest to look for: seconds a launch.
            cases=${SANITIZER_CASES:-10}
            [ "$tool-$stage" = racecheck-step ] && cases=1
            PROPTEST_CASES=$cases step "$tool-$stage" 240 compute-sanitizer \
                --tool "$tool" --error-exitcode 1 "$bundle/$stage" cuda:: \
                --skip the_largest_context --skip a_million_keys --skip reference_shape
        done
    done
    # A checker that sees nothing is no check: it must see the fault that lost_context plants.
    step control 60 bash -c '! compute-sanitizer --error-exitcode 1 "$0" >"$1" 2>&1 &&
        grep -q "Invalid __global__ write" "$1"' "$bundle/lost_context" "$out/planted.log"
}

time_it() {
    local shape
    for shape in reference tokens-131072 tokens-524288 tokens-524288-lists subvectors-8 subvectors-16 \
        grouped-heads batch-64; do
        step "bench-$shape" 120 "$bundle/keysieve" bench --shape $shape --backend cuda \
            --json "$out/bench-$shape.json"
        grep -E '^(graph_us|step_us|launches|replay|bytes)' "$out/bench-$shape.log"
    done
    step bench-cpu 120 "$bundle/keysieve" bench --shape reference --backend cpu \
        --json "$out/bench-cpu.json"
    cat "$out/bench-cpu.log"
    step eager 200 python3 "$bundle/peers/eager_torch.py" --shape reference
    cat "$out/eager.log"
}

# Every variant on many shapes: docs/results/h200-variants.json, if the chip is an H200.
tune() {
    step tune 580 "$bundle/keysieve" bench --tune --json "$out/variants.json"
    cat "$out/tune.log"
}

nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
date -u +%F
for task in "$@"; do
    case $task in
        check) check ;;
        sanitize) sanitize ;;
        time) time_it ;;
        tune) tune ;;
        *) echo "on_gpu.sh: got $task, expected check, sanitize, time or tune" >&2; exit 2 ;;
    esac
done
echo "failures: $failures"
[ $failures -eq 0 ]
