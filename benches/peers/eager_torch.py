#!/usr/bin/env python3
"""The step of keysieve in eager PyTorch, from the formulae, as the baseline to compare with.

One step, for every (batch, head):

    code     = argmin over centroids of |new key - centroid|   per sub-vector, appended to the codes
    table    = query . centroid                                 per sub-vector and centroid
    score    = sum over sub-vectors of table[code]              per candidate
    heavy    = the best candidates by score
    list     = sort(sink | heavy | window)
    weights  = 1 at listed positions, 0 elsewhere

Everything stays on the device and every buffer keeps its size: the step writes the new code into its
place and is repeated on the same context, so that a CUDA graph can be captured of it. There is no
rule for short contexts here, and equal scores may come in any order. Lists are compared with a brute
force first; a wrong one ends the run without a time.

    python eager_torch.py                               the reference shape on the GPU
    python eager_torch.py --shape tokens-131072 --json out.json
    python eager_torch.py --device cpu --tokens 2000    the logic alone, anywhere

Needs torch (2.11 was in mind) and nothing else.
"""

import argparse
import dataclasses
import json
import statistics
import sys
import time

import torch


@dataclasses.dataclass(frozen=True)
class Shape:
    """A load; the names are those of `keysieve bench --shape`."""

    batch: int = 1
    heads: int = 32
    kv_heads: int = 32
    tokens: int = 32_000
    head_dim: int = 128
    subvectors: int = 2
    bits: int = 6
    sink: int = 128
    window: int = 128
    heavy: int = 128
    weights: bool = True

    @property
    def sub_dim(self):
        return self.head_dim // self.subvectors

    @property
    def centroids(self):
        return 1 << self.bits

    @property
    def group_size(self):
        return self.heads // self.kv_heads

    @property
    def codes(self):
        """Quantised keys of a head, the step's new one included: all behind the sink."""
        return self.tokens - self.sink

    @property
    def candidates(self):
        """Quantised keys in front of the window."""
        return self.codes - self.window


SHAPES = {
    "reference": Shape(),
    "tokens-131072": Shape(tokens=131_072, heavy=1024),
    "tokens-524288": Shape(tokens=524_288, heavy=2048),
    "tokens-524288-lists": Shape(tokens=524_288, heavy=2048, weights=False),
    "subvectors-8": Shape(subvectors=8, bits=8),
    "subvectors-16": Shape(tokens=131_072, subvectors=16, bits=8, heavy=1024),
    "grouped-heads": Shape(
        batch=8, kv_heads=8, tokens=32_768, heavy=256, weights=False
    ),
    "batch-64": Shape(batch=64, heads=8, kv_heads=8, tokens=8192, weights=False),
}


class Step:
    """The tensors of a step, and the step."""

    def __init__(self, shape, device, seed):
        self.shape = shape
        self.generator = torch.Generator(device=device).manual_seed(seed)
        self.device = device
        b, g, m = shape.batch, shape.kv_heads, shape.subvectors
        d, c, n = shape.sub_dim, shape.centroids, shape.codes
        self.mean = self.normal(b, g, 1, shape.head_dim)
        # Sampled keys, as nothing that is timed depends on training.
        sampled = self.mean + self.normal(b, g, c, shape.head_dim)
        self.centroids = sampled.view(b, g, c, m, d).transpose(2, 3).contiguous()
        # Gathering by int64 indices is what eager PyTorch offers; kept as such, and sub-vector by
        # sub-vector, so that no step converts or transposes them.
        self.codes = torch.zeros(b, g, m, n, dtype=torch.int64, device=device)
        for first in range(0, n, 8192):
            count = min(8192, n - first)
            keys = self.mean + self.normal(b, g, count, shape.head_dim)
            self.codes[..., first : first + count] = self.encode(keys)
        self.new_keys = self.mean + self.normal(b, g, 1, shape.head_dim)
        self.queries = self.normal(b, shape.heads, shape.head_dim)

        def positions(first, end):
            row = torch.arange(first, end, device=device)
            return row.expand(b, shape.heads, end - first)

        self.sinks = positions(0, shape.sink)
        self.windows = positions(shape.tokens - shape.window, shape.tokens)

    def normal(self, *size):
        return torch.randn(*size, generator=self.generator, device=self.device)

    def encode(self, keys):
        """Codes [batch, kv_heads, m, n] of keys [batch, kv_heads, n, head_dim]."""
        s = self.shape
        b, g, n, _ = keys.shape
        parts = keys.reshape(b, g, n, s.subvectors, s.sub_dim).transpose(2, 3)
        return torch.cdist(parts, self.centroids).argmin(dim=-1)

    def tables(self):
        """[batch, kv_heads, group_size, m, 2^bits]; the heads of a group share its centroids."""
        s = self.shape
        queries = self.queries.view(
            s.batch, s.kv_heads, s.group_size, s.subvectors, s.sub_dim
        )
        # [.., m, group_size, sub_dim] x [.., m, sub_dim, 2^bits]
        tables = queries.transpose(2, 3) @ self.centroids.transpose(-1, -2)
        return tables.transpose(2, 3)

    def scores(self):
        """[batch, heads, candidates]."""
        s = self.shape
        # A view for each head of a group, so that its codes are not copied.
        codes = self.codes[..., : s.candidates].unsqueeze(2)
        codes = codes.expand(-1, -1, s.group_size, -1, -1)
        scores = self.tables().gather(-1, codes).sum(dim=3)
        return scores.view(s.batch, s.heads, s.candidates)

    def heavy(self, scores):
        """Unordered positions of the best candidates."""
        return scores.topk(self.shape.heavy, dim=-1, sorted=False).indices + self.shape.sink

    def run(self):
        """One step; gives positions [batch, heads, sink + heavy + window] and weights or None."""
        s = self.shape
        self.codes[..., -1:] = self.encode(self.new_keys)
        heavy = self.heavy(self.scores())
        positions = torch.cat((self.sinks, heavy, self.windows), dim=-1).sort(dim=-1).values
        if not s.weights:
            return positions, None
        weights = torch.zeros(s.batch, s.heads, s.tokens, device=self.device)
        weights.scatter_(-1, positions, 1.0)
        return positions, weights


def check(step, rows=4):
    """Compares a few rows with a brute force in float64, ties and roundings aside."""
    s = step.shape
    positions, weights = step.run()
    all_heads = s.batch * s.heads
    chosen = sorted({row * (all_heads - 1) // max(rows - 1, 1) for row in range(rows)})
    for row in chosen:
        b, h = divmod(row, s.heads)
        g = h // s.group_size
        centroids = step.centroids[b, g].double().cpu()  # [m, 2^bits, sub_dim]
        codes = step.codes[b, g].cpu()  # [m, n]
        where = f"batch {b}, head {h}"

        key = step.new_keys[b, g, 0].double().cpu().view(s.subvectors, 1, s.sub_dim)
        distances = (key - centroids).square().sum(dim=-1)  # [m, 2^bits]
        got = distances.gather(-1, codes[:, -1:]).squeeze(-1)
        if not torch.allclose(got, distances.min(dim=-1).values, rtol=1e-4):
            sys.exit(f"{where}: the new key's code is not that of its nearest centroid")

        query = step.queries[b, h].double().cpu().view(s.subvectors, 1, s.sub_dim)
        table = (query * centroids).sum(dim=-1)  # [m, 2^bits]
        scores = torch.zeros(s.candidates, dtype=torch.float64)
        for j in range(s.subvectors):
            scores += table[j][codes[j, : s.candidates]]

        listed = positions[b, h].cpu()
        if not bool((listed[1:] > listed[:-1]).all()):
            sys.exit(f"{where}: the list does not ascend strictly")
        fixed = set(range(s.sink)) | set(range(s.tokens - s.window, s.tokens))
        heavy = set(listed.tolist()) - fixed
        if len(heavy) != s.heavy or not fixed <= set(listed.tolist()):
            sys.exit(f"{where}: sink, window or {s.heavy} heavy keys are not listed")
        # Every key clearly above the last one that may be taken is, and none clearly below it.
        last = scores.topk(s.heavy).values[-1].item() if s.heavy else 0.0
        slack = 1e-3 * max(1.0, scores.abs().max().item())
        above = set((torch.nonzero(scores > last + slack).flatten() + s.sink).tolist())
        below = set((torch.nonzero(scores < last - slack).flatten() + s.sink).tolist())
        if s.heavy and (above - heavy or heavy & below):
            sys.exit(f"{where}: the heavy keys are not the best {s.heavy}")

        if weights is not None:
            expected = torch.zeros(s.tokens)
            expected[listed] = 1.0
            if not torch.equal(weights[b, h].cpu(), expected):
                sys.exit(f"{where}: the weights are not 1 at the listed positions alone")
    return len(chosen)


def figures(times):
    """What `keysieve bench` gives of its runs, in the unit of `times`."""
    return {
        "average": statistics.fmean(times),
        "median": statistics.median(times),
        "min": min(times),
        "max": max(times),
        "std": statistics.pstdev(times),
    }


def wall_us(work, device, warmup, runs):
    """The wall clock around `work` and a wait, in microseconds."""

    def wait():
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    times = []
    for run in range(warmup + runs):
        wait()
        start = time.perf_counter()
        work()
        wait()
        if run >= warmup:
            times.append((time.perf_counter() - start) * 1e6)
    return figures(times)


def event_us(work, repeats, warmup, runs):
    """GPU time around `repeats` calls, divided, with the gaps in which the GPU waits for the host."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    times = []
    for run in range(warmup + runs):
        torch.cuda.synchronize()
        start.record()
        for _ in range(repeats):
            work()
        end.record()
        end.synchronize()
        if run >= warmup:
            times.append(start.elapsed_time(end) * 1e3 / repeats)
    return figures(times)


def captured(work):
    """A CUDA graph of `work`, or the reason why there is none."""
    try:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                work()
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            work()
        torch.cuda.synchronize()
        return graph, None
    except RuntimeError as error:
        return None, str(error).splitlines()[0]


def kernels(work, runs):
    """Kernels, copies and fills of a call, and the sum of their times in microseconds."""
    from torch.profiler import ProfilerActivity, profile

    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as recorded:
        for _ in range(runs):
            work()
        torch.cuda.synchronize()
    # Events of the device alone: those of the CPU that launched them would count twice.
    events = [
        event
        for event in recorded.events()
        if event.device_type == torch.autograd.DeviceType.CUDA
    ]
    by_name = {}
    for event in events:
        count, total = by_name.get(event.name, (0, 0.0))
        by_name[event.name] = (count + 1, total + event.time_range.elapsed_us())
    longest = sorted(by_name.items(), key=lambda item: -item[1][1])[:12]
    return {
        "launches": len(events) / runs,
        "sum_us": sum(event.time_range.elapsed_us() for event in events) / runs,
        "longest": [
            {"name": name, "calls": count / runs, "us": total / runs}
            for name, (count, total) in longest
        ],
    }


def measure(step, warmup, runs):
    """All times, each under its name."""
    device = step.device
    result = {"wall_us": wall_us(step.run, device, warmup, runs)}
    if device.type != "cuda":
        return result
    result["eager_us"] = event_us(step.run, 1, warmup, runs)
    graph, why_not = captured(step.run)
    if graph is None:
        result["graph_why_not"] = why_not
    else:
        result["step_us"] = event_us(graph.replay, 1, warmup, runs)
        result["graph_us"] = event_us(graph.replay, 200, 1, 5)
    if step.shape.heavy:
        scores = step.scores().contiguous()
        graph, why_not = captured(lambda: scores.topk(step.shape.heavy, dim=-1))
        if graph is None:
            result["topk_why_not"] = why_not
        else:
            result["topk_us"] = event_us(graph.replay, 200, 1, 5)
    try:
        result["kernels"] = kernels(step.run, 20)
    except (RuntimeError, AttributeError) as error:
        # A machine may forbid the counters; the other times stand.
        result["kernels_why_not"] = (str(error) or type(error).__name__).splitlines()[0]
    return result


MEANINGS = {
    "wall_us": "wall clock: the eager step, wait",
    "eager_us": "events around the eager step, the host's launches included",
    "step_us": "events around one graph replay, its launch included",
    "graph_us": "events around 200 replays in a row, divided",
    "topk_us": "torch.topk alone on the step's scores, 200 replays in a row, divided",
}


def report(shape, result, out):
    print(f"eager PyTorch {torch.__version__} on {result['device']}", file=out)
    print(f"{result['shape_name']}: {dataclasses.asdict(shape)}", file=out)
    print(f"checked: {result['checked_rows']} rows against a brute force\n", file=out)
    names = ("average", "median", "min", "max", "std")
    print(f"{'':10}" + "".join(f"{name:>10}" for name in names), file=out)
    for name, meaning in MEANINGS.items():
        if name in result:
            cells = "".join(f"{result[name][column]:10.2f}" for column in names)
            print(f"{name:10}{cells}   {meaning}", file=out)
    for name in ("graph_why_not", "topk_why_not", "kernels_why_not"):
        if name in result:
            print(f"{name}: {result[name]}", file=out)
    if "kernels" in result:
        found = result["kernels"]
        print(
            f"\nkernels: {found['launches']:.1f} a step, {found['sum_us']:.2f} us in all;"
            " the longest:",
            file=out,
        )
        for kernel in found["longest"]:
            print(
                f"{kernel['us']:10.2f} us {kernel['calls']:5.1f} x  {kernel['name'][:90]}",
                file=out,
            )


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="reference")
    for field in dataclasses.fields(Shape):
        if field.name != "weights":
            option = "--" + field.name.replace("_", "-")
            parser.add_argument(option, type=int, metavar="N")
    parser.add_argument("--no-weights", action="store_true")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--warmup", type=int, default=10)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", metavar="FILE", help="write the JSON line there too")
    args = parser.parse_args()

    given = {
        field.name: value
        for field in dataclasses.fields(Shape)
        if (value := getattr(args, field.name, None)) is not None
    }
    if "heads" in given and "kv_heads" not in given:
        given["kv_heads"] = given["heads"]
    shape = dataclasses.replace(SHAPES[args.shape], **given)
    if args.no_weights:
        shape = dataclasses.replace(shape, weights=False)
    positive = ("batch", "heads", "kv_heads", "tokens", "head_dim", "subvectors")
    for name in positive:
        if getattr(shape, name) < 1:
            parser.error(f"--{name.replace('_', '-')}: got {getattr(shape, name)}, expected at least 1")
    if not 1 <= shape.bits <= 8:
        parser.error(f"--bits: got {shape.bits}, expected 1 to 8")
    if min(shape.sink, shape.window, shape.heavy, args.warmup) < 0 or args.runs < 1:
        parser.error("--sink, --window, --heavy, --warmup: expected at least 0; --runs at least 1")
    if shape.heads % shape.kv_heads:
        parser.error(f"--kv-heads: got {shape.kv_heads}, expected a divisor of {shape.heads}")
    if shape.head_dim % shape.subvectors:
        parser.error(f"--subvectors: got {shape.subvectors}, expected a divisor of {shape.head_dim}")
    if shape.candidates < max(shape.heavy, 1):
        parser.error(
            f"--tokens: got {shape.tokens}, expected at least sink + window + heavy"
            f" = {shape.sink + shape.window + max(shape.heavy, 1)}"
        )
    args.shape_name = args.shape if shape == SHAPES[args.shape] else "custom"
    return args, shape


def main():
    args, shape = arguments()
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("--device: got cuda, expected a GPU that answers (or --device cpu)")
    if device.index is not None:
        torch.cuda.set_device(device)
    # Full f32 products: the check allows for roundings, not for TF32.
    torch.set_float32_matmul_precision("highest")
    with torch.inference_mode():
        step = Step(shape, device, args.seed)
        checked_rows = check(step)
        result = measure(step, args.warmup, args.runs)
    result = {
        "what": "eager_torch",
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "shape_name": args.shape_name,
        "shape": dataclasses.asdict(shape),
        "checked_rows": checked_rows,
        "warmup": args.warmup,
        "runs": args.runs,
        "seed": args.seed,
    } | result
    report(shape, result, sys.stdout)
    line = json.dumps(result)
    print(f"\n{line}")
    if args.json:
        with open(args.json, "w", encoding="utf-8") as out:
            out.write(line + "\n")


if __name__ == "__main__":
    main()
