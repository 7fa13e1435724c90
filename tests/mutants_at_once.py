#!/usr/bin/env python3
"""cargo-mutants' mutants of the host's selection code, compiled together and told apart by a variable.

    tests/mutants_at_once.py SCRATCH [TEXT...]

cargo-mutants compiles the library again for each mutant. Here every function gets the body of each of its mutants
beside its own, behind a `match` on the number in KEYSIEVE_MUTANT; the test binaries are built once and run once for
each mutant, the quickest first, until one fails. SCRATCH is a clone of this repository, made if it is not there, whose
sources are overwritten. With TEXT only mutants whose names contain one of them are run.

Prints what was not caught and the counts; SCRATCH/mutants.json keeps the outcomes, and a later call goes on from them.
"""

import collections
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
VARIABLE = "KEYSIEVE_MUTANT"

# Too many variants for one build with the functions that are inlined into it.
ALONE = {"scan_on"}

# (cargo's target, arguments): the CPU's trials alone.
SUITES = [
    (["keysieve", "--lib"], []),
    (["keysieve-tests", "--test=contract"], ["--skip=sim"]),
    (["keysieve-tests", "--test=ragged"], ["--skip=sim"]),
    (["keysieve-tests", "--test=step"], ["--skip=sim"]),
    (["keysieve-tests", "--test=codes"], ["--skip=sim"]),
    (["keysieve-tests", "--test=weights"], ["--skip=sim"]),
    (["keysieve-tests", "--test=drift"], ["--skip=sim"]),
]

SWITCH = f"""
/// Which mutant runs.
#[inline]
pub(crate) fn mutant() -> u32 {{
    static MUTANT: std::sync::LazyLock<u32> = std::sync::LazyLock::new(|| {{
        std::env::var("{VARIABLE}").map_or(0, |number| number.parse().unwrap())
    }});
    *MUTANT
}}
"""


def listed():
    """The mutants by number, from 1. Those of constants have no function, and are left to cargo-mutants."""
    command = ["cargo", "mutants", "--package=keysieve", "--list", "--json"]
    mutants = json.loads(subprocess.check_output(command, cwd=REPOSITORY))
    return dict(enumerate(mutants, 1))


def offset(text, place):
    """Where a line and column of cargo-mutants are in the text."""
    lines = text.split("\n")
    return sum(len(line) + 1 for line in lines[: place["line"] - 1]) + place["column"] - 1


def body_start(text, at):
    """The brace that opens the body of the function that begins at `at`."""
    depth = 0
    while text[at] != "{" or depth > 0:
        if text.startswith("//", at):
            at = text.index("\n", at)
        depth += (text[at] in "([") - (text[at] in ")]")
        at += 1
    return at


def with_mutants(text, mutants):
    """The text with those mutants, and (first line, last line, number) of each."""
    spans = {}
    for number, mutant in mutants.items():
        span = mutant["function"]["span"]
        span = (offset(text, span["start"]), offset(text, span["end"]))
        spans.setdefault(span, []).append(number)
    # A function inside another: the outer one has the mutants of both.
    functions = []
    for span in sorted(spans, key=lambda span: (span[0], -span[1])):
        if functions and span[1] <= functions[-1][0][1]:
            functions[-1][1].extend(spans[span])
        else:
            functions.append((span, spans[span]))
    out, lines, at = "", [], 0
    for (start, end), numbers in functions:
        start = body_start(text, start)
        out += text[at:start] + "{ match crate::mutant() {\n"
        for number in numbers:
            first, last = (offset(text, mutants[number]["span"][key]) for key in ("start", "end"))
            line = out.count("\n") + 1
            out += f"{number} => {text[start:first]}{mutants[number]['replacement']} {text[last:end]}\n"
            lines.append((line, out.count("\n"), number))
        out += f"_ => {text[start:end]}\n}}}}"
        at = end
    return out + text[at:], lines


def build(scratch, suites, mutants):
    """Builds the suites with those mutants that compile; returns their binaries and the numbers of the others."""
    unviable = set()
    command = ["cargo", "test", "--no-run", "--profile=mutants", "--message-format=json"]
    environment = dict(os.environ, CARGO_INCREMENTAL="0")
    while True:
        lines = {}
        for name in sorted({mutant["file"] for mutant in mutants.values()}):
            of_file = {
                number: mutant
                for number, mutant in mutants.items()
                if mutant["file"] == name and number not in unviable
            }
            text, lines[name] = with_mutants((REPOSITORY / name).read_text(), of_file)
            (scratch / name).write_text(text)
        binaries, errors = [], set()
        for target, _ in suites:
            target = [f"--package={target[0]}", target[1]]
            process = subprocess.run(
                command + target, cwd=scratch, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
            for line in process.stdout.splitlines():
                message = json.loads(line)
                if message.get("executable") and message["profile"]["test"]:
                    binaries.append(message["executable"])
                if message.get("message", {}).get("level") == "error":
                    spans = message["message"]["spans"]
                    spans += [span for child in message["message"]["children"] for span in child["spans"]]
                    errors |= {
                        number
                        for span in spans
                        for first, last, number in lines.get(span["file_name"], [])
                        if first <= span["line_start"] <= last
                    }
            if process.returncode != 0:
                break
        else:
            return binaries, unviable
        if not errors:
            sys.exit(f"{target} does not compile, and no mutant is to blame")
        unviable |= errors


def run(number, binary, arguments, folder, seconds):
    """caught, missed or timeout (of processor time, or of ten minutes)."""

    def limit():
        os.setsid()
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))

    process = subprocess.Popen(
        [binary, *arguments],
        cwd=folder,
        env={"PROPTEST_CASES": "24", **os.environ, VARIABLE: str(number)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=limit,
    )
    try:
        status = process.wait(timeout=600)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return "timeout"
    if status in (-signal.SIGXCPU, -signal.SIGKILL):
        return "timeout"
    return "missed" if status == 0 else "caught"


def main():
    scratch, texts = Path(sys.argv[1]).resolve(), sys.argv[2:]
    if not scratch.exists():
        subprocess.run(["git", "clone", "--quiet", REPOSITORY, scratch], check=True)
    library = scratch / "host/src/lib.rs"
    if "fn mutant()" not in library.read_text():
        library.write_text(library.read_text() + SWITCH)
    kept = scratch / "mutants.json"
    outcomes = json.loads(kept.read_text()) if kept.exists() else {}
    mutants = {
        number: mutant
        for number, mutant in listed().items()
        if not texts or any(text in mutant["name"] for text in texts)
    }
    of_functions = {number: mutant for number, mutant in mutants.items() if mutant["function"]}
    alone = {n: m for n, m in of_functions.items() if m["function"]["function_name"] in ALONE}
    others = {n: m for n, m in of_functions.items() if n not in alone}
    for part in filter(None, [others, alone]):
        binaries, unviable = build(scratch, SUITES, part)
        outcomes.update({mutants[number]["name"]: "unviable" for number in unviable})
        suites = []
        for binary, (target, arguments) in zip(binaries, SUITES):
            folder = scratch / ("host" if target[0] == "keysieve" else "tests")
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            if run(0, binary, arguments, folder, 600) != "missed":
                sys.exit(f"{binary} fails without a mutant")
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            suites.append((binary, arguments, folder, 3 + 5 * int(after.ru_utime - before.ru_utime)))
        for number in part:
            name = mutants[number]["name"]
            if name in outcomes:
                continue
            # The first that does not miss it.
            results = (run(number, *suite) for suite in suites)
            outcomes[name] = next((result for result in results if result != "missed"), "missed")
            kept.write_text(json.dumps(outcomes, indent=1))
    counts = collections.Counter()
    for mutant in mutants.values():
        outcome = outcomes.get(mutant["name"], "not run")
        counts[outcome] += 1
        if outcome not in ("caught", "unviable"):
            print(f"{outcome}: {mutant['name']}")
    print(f"{len(mutants)} mutants: " + ", ".join(f"{n} {outcome}" for outcome, n in sorted(counts.items())))


main()
