#!/usr/bin/env python3
"""keysieve's CPU backend beside faiss-cpu: one table, three times, and its medians.

Each row is one format on one head of random keys: FAISS's IndexPQ or IndexPQFastScan (inner product)
and keysieve search the same keys with the same queries, one query at a time, for the same k, with as
many threads. Each trains its own codebook. keysieve's lists are compared with a plain loop before
they are timed (`cpu_steps.rs`); FAISS's own recall is not looked at. The two take turns, so that a
busy machine slows both.

    python3 faiss_cpu.py                    builds cpu_steps, makes a virtual environment beside it
    python3 faiss_cpu.py --cpu-steps PATH   with a cpu_steps built elsewhere
    python3 faiss_cpu.py --training         the training's rows alone
    python3 faiss_cpu.py --venv             as it is now: faiss, numpy and safetensors are here

Needs nothing but python with venv, and cargo unless --cpu-steps is given.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PACKAGES = ["faiss-cpu==1.15.1", "numpy", "safetensors"]

# (m, bits, k, keys, FastScan, ratio aimed at)
FORMATS = [
    (2, 6, 128, 31_872, False, 12),
    (8, 8, 128, 31_872, False, 6),
    (16, 8, 1024, 131_072, False, 4),
    (16, 4, 1024, 131_072, True, 2),
]
HEAD_DIM = 128
QUERIES = 64
ROUNDS = 3
TRAIN_RATIO = 4


def in_venv(arguments):
    """Runs this script again in a virtual environment that has its packages."""
    venv = ROOT / "target" / "peers" / "venv"
    python = venv / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
    return subprocess.run([python, __file__, "--venv", *arguments]).returncode


def build_cpu_steps():
    subprocess.run(
        ["cargo", "build", "--release", "--package", "keysieve", "--example", "cpu_steps"],
        cwd=ROOT,
        check=True,
    )
    return ROOT / "target" / "release" / "examples" / "cpu_steps"


def keysieve(program, *arguments):
    """What cpu_steps measured."""
    output = subprocess.run(
        [program, *map(str, arguments)], check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(output.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cpu-steps", type=pathlib.Path)
    parser.add_argument("--venv", action="store_true")
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--training", action="store_true", help="the training alone")
    options = parser.parse_args()
    if not options.venv:
        program = options.cpu_steps or build_cpu_steps()
        alone = ["--training"] if options.training else []
        return in_venv(["--cpu-steps", str(program), "--runs", str(options.runs), *alone])

    import faiss
    import numpy
    from safetensors.numpy import save_file

    print(f"faiss {faiss.__version__}, {faiss.get_compile_options().strip()}, {os.cpu_count()} cores")
    random = numpy.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:

        def kv(keys, head_dim):
            """A KV file of one head, with its keys and queries."""
            x = random.standard_normal((keys, head_dim), dtype=numpy.float32)
            q = random.standard_normal((QUERIES, head_dim), dtype=numpy.float32)
            path = pathlib.Path(folder) / f"{keys}x{head_dim}.safetensors"
            save_file({"keys": x[None], "queries": q[None]}, path)
            return path, x, q

        header = f"{'one thread, one head':<40}{'FAISS us':>10}{'keysieve us':>13}{'ratio':>8}{'aim':>6}"
        faiss.omp_set_num_threads(1)
        if not options.training:
            print(header)
        for m, bits, k, keys, fast, aim in [] if options.training else FORMATS:
            path, x, q = kv(keys, HEAD_DIM)
            kind = faiss.IndexPQFastScan if fast else faiss.IndexPQ
            index = kind(HEAD_DIM, m, bits, faiss.METRIC_INNER_PRODUCT)
            index.train(x[:20_000])
            index.add(x)
            rounds = []
            for _ in range(ROUNDS):
                times = []
                for run in range(options.runs):
                    query = q[run % QUERIES][None]
                    start = time.perf_counter()
                    index.search(query, k)
                    times.append((time.perf_counter() - start) * 1e6)
                ours = keysieve(options.cpu_steps, path, m, bits, k, 1, options.runs)
                rounds.append((statistics.median(times), ours["us"], ours["simd"]))
            name = f"m={m} bits={bits} k={k} n={keys}{' FastScan' if fast else ''}"
            report(name, rounds, aim)

        faiss.omp_set_num_threads(2)
        path, x, _ = kv(31_872, 64)
        print(f"\n{'two threads, 31,872 x 64, 64 centroids':<40}{'FAISS ms':>10}{'keysieve ms':>13}")
        rounds, inertias = [], []
        for seed in range(ROUNDS):
            quantiser = faiss.Kmeans(
                64, 64, niter=10, seed=seed, max_points_per_centroid=len(x)
            )
            start = time.perf_counter()
            quantiser.train(x)
            took = (time.perf_counter() - start) * 1e3
            inertia = float(quantiser.index.search(x, 1)[0].sum())
            ours = keysieve(options.cpu_steps, "train", path, 1, 6, 10, 2, 3)
            rounds.append((took, ours["ms"], ours["simd"]))
            inertias.append((inertia, ours["inertia"]))
        report("training, 10 iterations", rounds, TRAIN_RATIO)
        theirs, ours = (statistics.median(side) for side in zip(*inertias))
        print(f"inertia: FAISS {theirs:.6g}, keysieve {ours:.6g} ({ours / theirs:.4f} of it)")
    return 0


def report(name, rounds, aim):
    for theirs, ours, simd in rounds:
        line(f"  {simd}", theirs, ours, aim)
    medians = [statistics.median(side) for side in list(zip(*rounds))[:2]]
    line(name, *medians, aim)


def line(name, theirs, ours, aim):
    print(f"{name:<40}{theirs:>10.1f}{ours:>13.2f}{theirs / ours:>8.2f}{aim:>6}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
