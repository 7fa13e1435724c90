//! `check-ptx`: what ptxas makes of the committed files, and whether each kernel has the
//! convergent operations that its source means.

use anyhow::{Result, bail};
use gpu_kernels::kernel::KernelInfo;
use gpu_kernels::table::KERNELS;

use crate::build_ptx::{TARGETS, Target};
use crate::ptx_text::{self, Collectives, Function};
use crate::ptxas::{Ptxas, Usage};
use crate::workspace;

/// The oldest chip with clusters.
const CLUSTER_SM: u32 = 90;

/// Checks every file of host/ptx for every chip it is meant for; lists all problems at the end.
pub(crate) fn run() -> Result<()> {
    let ptxas = Ptxas::find()?;
    let mut problems = Vec::new();
    let mut rows = vec![heading()];
    for target in &TARGETS {
        let text = target.read()?;
        let file = target.display_path();
        check_target_line(&text, target)?;
        let functions = ptx_text::functions(&text)?;
        let found = check_text(&functions, target.sm(), KERNELS);
        problems.extend(found.iter().map(|problem| format!("{file}: {problem}")));
        for arch in target.assembled_for {
            for usage in ptxas.assemble(&target.path(), arch)? {
                let entry = functions
                    .iter()
                    .find(|function| function.name == usage.name);
                let collectives = entry.map_or(Collectives::default(), |function| {
                    ptx_text::collectives(function.body)
                });
                rows.push(row(&usage, target, arch, collectives));
                let found = check_usage(&usage);
                problems.extend(found.map(|problem| format!("{file} for {arch}: {problem}")));
            }
        }
    }
    print!("{}", workspace::table(&rows));
    if !problems.is_empty() {
        bail!("{} problem(s)\n  {}", problems.len(), problems.join("\n  "));
    }
    Ok(())
}

/// A file must run on every chip from its own on: `sm_90a` and `sm_100f` run on few.
fn check_target_line(text: &str, target: &Target) -> Result<()> {
    let found = ptx_text::target(text)?;
    if found.ends_with(|last: char| !last.is_ascii_digit()) {
        bail!(
            "{} is for {found}, which ptxas assembles for that chip or its family only",
            target.display_path()
        );
    }
    if found != target.cpu {
        bail!(
            "{} is for {found}, expected {}",
            target.display_path(),
            target.cpu
        );
    }
    Ok(())
}

/// Problems of one file that its text alone shows.
fn check_text(functions: &[Function<'_>], sm: u32, kernels: &[KernelInfo]) -> Vec<String> {
    let mut problems = Vec::new();
    // A kernel that needs clusters is left out of files for chips without them.
    for kernel in kernels
        .iter()
        .filter(|k| k.cluster == 0 || sm >= CLUSTER_SM)
    {
        let mut entries = functions.iter().filter(|function| function.is_entry);
        if !entries.any(|function| function.name == kernel.name) {
            problems.push(format!("{} is in KERNELS but no entry here", kernel.name));
        }
    }
    for function in functions {
        let name = function.name;
        let count = ptx_text::collectives(function.body);
        let has_collectives = count != Collectives::default();
        if !function.is_entry {
            if has_collectives {
                problems.push(format!(
                    "{name} has convergent operations but was not inlined into a kernel"
                ));
            }
            continue;
        }
        let Some(kernel) = kernels.iter().find(|kernel| kernel.name == name) else {
            problems.push(format!("{name} is an entry here but not in KERNELS"));
            continue;
        };
        let counts = [
            ("CTA barriers", count.barriers, kernel.barriers),
            (
                "cluster arrives",
                count.cluster_arrives,
                kernel.cluster_barriers,
            ),
            (
                "cluster waits",
                count.cluster_waits,
                kernel.cluster_barriers,
            ),
            ("warp collectives", count.warp, kernel.warp_collectives),
        ];
        for (what, found, expected) in counts {
            if found != expected {
                problems.push(format!("{name} has {found} {what}, its source {expected}"));
            }
        }
        let callees = ptx_text::callees(function.body);
        if has_collectives && !callees.is_empty() {
            problems.push(format!(
                "{name} has convergent operations and calls {callees:?}, which should be inlined"
            ));
        }
    }
    problems
}

fn check_usage(usage: &Usage) -> Option<String> {
    let counts = [
        ("stack frame", usage.stack_bytes),
        ("spill stores", usage.spill_store_bytes),
        ("spill loads", usage.spill_load_bytes),
    ];
    let bad: Vec<String> = counts
        .iter()
        .filter(|(_, bytes)| *bytes != 0)
        .map(|(what, bytes)| format!("{bytes} bytes of {what}"))
        .collect();
    (!bad.is_empty()).then(|| format!("{} has {}", usage.name, bad.join(", ")))
}

fn heading() -> Vec<String> {
    [
        "kernel",
        "file",
        "arch",
        "registers",
        "smem",
        "stack",
        "spills",
        "barriers",
        "cluster barriers",
        "shuffles/votes",
    ]
    .map(str::to_owned)
    .to_vec()
}

fn row(usage: &Usage, target: &Target, arch: &str, collectives: Collectives) -> Vec<String> {
    let numbers = [
        usage.registers,
        usage.shared_bytes,
        usage.stack_bytes,
        usage.spill_store_bytes + usage.spill_load_bytes,
        collectives.barriers,
        collectives.cluster_arrives,
        collectives.warp,
    ];
    let mut row = vec![usage.name.clone(), target.cpu.to_owned(), arch.to_owned()];
    row.extend(numbers.map(|number| number.to_string()));
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    const PTX: &str = "\
.target sm_90
.func helper() { shfl.sync.bfly.b32 %r1, %r2, 1, 31, -1; ret; }
.visible .entry good() { bar.sync 0; shfl.sync.idx.b32 %r1, %r2, 1, 31, -1; ret; }
.visible .entry twice() { bar.sync 0; bar.sync 0; ret; }
.visible .entry calls() { bar.sync 0; call.uni helper, (); ret; }
.visible .entry stray() { ret; }
";

    fn kernel(name: &'static str, barriers: u32, warp_collectives: u32) -> KernelInfo {
        KernelInfo {
            name,
            threads: 128,
            cluster: 0,
            min_blocks: 0,
            barriers,
            warp_collectives,
            cluster_barriers: 0,
        }
    }

    #[test]
    fn each_kind_of_problem_is_named() {
        let kernels = [
            kernel("good", 1, 1),
            kernel("twice", 1, 0),
            kernel("calls", 1, 0),
            kernel("missing", 0, 0),
        ];
        let functions = ptx_text::functions(PTX).unwrap();
        assert_eq!(
            check_text(&functions, 90, &kernels),
            [
                "missing is in KERNELS but no entry here",
                "helper has convergent operations but was not inlined into a kernel",
                "twice has 2 CTA barriers, its source 1",
                "calls has convergent operations and calls [\"helper\"], which should be inlined",
                "stray is an entry here but not in KERNELS",
            ]
        );
    }

    /// What rustc wrote with and without jump threading; the simulator's tests run both.
    #[test]
    fn a_duplicated_barrier_is_counted() {
        let kernels = [kernel("reversed", 1, 0)];
        let problems = |text: &str| check_text(&ptx_text::functions(text).unwrap(), 80, &kernels);
        let threaded = include_str!("../../tests/ptx-sim/tests/jump_threading/threaded.ptx");
        let whole = include_str!("../../tests/ptx-sim/tests/jump_threading/whole.ptx");
        assert_eq!(
            problems(threaded),
            ["reversed has 2 CTA barriers, its source 1"]
        );
        assert_eq!(problems(whole), [""; 0]);
    }

    #[test]
    fn cluster_kernels_may_be_absent_where_clusters_are() {
        let kernels = [KernelInfo {
            cluster: 4,
            ..kernel("clustered", 0, 0)
        }];
        assert_eq!(check_text(&[], 80, &kernels), [""; 0]);
        assert_eq!(check_text(&[], 90, &kernels).len(), 1);
    }

    #[test]
    fn chip_specific_targets_are_refused() {
        assert!(check_target_line(".target sm_90\n", &TARGETS[1]).is_ok());
        assert!(check_target_line(".target sm_80\n", &TARGETS[1]).is_err());
        let error = check_target_line(".target sm_90a\n", &TARGETS[1]).unwrap_err();
        assert!(error.to_string().contains("family"), "{error}");
    }

    #[test]
    fn spills_and_stack_are_problems() {
        let mut usage = Usage {
            name: "select".to_owned(),
            registers: 64,
            ..Usage::default()
        };
        assert_eq!(check_usage(&usage), None);
        usage.stack_bytes = 160;
        let problem = check_usage(&usage).unwrap();
        assert_eq!(problem, "select has 160 bytes of stack frame");
    }
}
