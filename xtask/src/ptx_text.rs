//! PTX as text: functions, launch bounds, convergent operations.
//!
//! This reads what LLVM writes, not every PTX file that ptxas would take.

use anyhow::{Context, Result, bail};

/// A function with a body. Offsets are into the text it was found in.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Function<'a> {
    pub(crate) name: &'a str,
    /// A kernel (`.entry`), not a device function (`.func`).
    pub(crate) is_entry: bool,
    /// End of the parameter list, where `.maxntid` belongs.
    header_end: usize,
    /// Between the braces.
    pub(crate) body: &'a str,
}

/// Operations that every thread of a warp, CTA or cluster must reach together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Collectives {
    /// Barriers of a CTA.
    pub(crate) barriers: u32,
    /// First halves of cluster barriers.
    pub(crate) cluster_arrives: u32,
    /// Second halves of cluster barriers.
    pub(crate) cluster_waits: u32,
    /// Shuffles, votes, matches, reductions and barriers of a warp.
    pub(crate) warp: u32,
}

/// What the launch of an entry is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LaunchBounds {
    /// Threads of a CTA.
    pub(crate) threads: u32,
    /// CTAs of a cluster; 0 for a launch without clusters or with a size of its own.
    pub(crate) cluster: u32,
    /// CTAs that a multiprocessor is to hold; 0 for any number.
    pub(crate) min_blocks: u32,
}

/// `.target` of a PTX file, such as `sm_90`.
pub(crate) fn target(ptx: &str) -> Result<&str> {
    ptx.lines()
        .find_map(|line| line.trim().strip_prefix(".target "))
        .map(|rest| rest.split(',').next().unwrap_or(rest).trim())
        .context("no .target line")
}

/// The value of a `// key: value` line above the first directive.
pub(crate) fn header_field<'a>(ptx: &'a str, key: &str) -> Option<&'a str> {
    ptx.lines()
        .take_while(|line| line.starts_with("//"))
        .find_map(|line| line[2..].trim().strip_prefix(key)?.strip_prefix(':'))
        .map(str::trim)
}

/// Every function that has a body, in order.
pub(crate) fn functions(ptx: &str) -> Result<Vec<Function<'_>>> {
    let mut functions = Vec::new();
    let mut start = 0;
    while let Some(offset) = ptx[start..].find(['{', ';']) {
        let end = start + offset;
        let head = &ptx[start..end];
        if ptx.as_bytes()[end] == b';' {
            start = end + 1;
            continue;
        }
        let close = matching_brace(ptx, end)?;
        // Braces of an initialiser follow an equals sign and end with the next semicolon.
        let keyword = [(".entry", true), (".func", false)]
            .into_iter()
            .filter_map(|(word, is_entry)| Some((head.rfind(word)? + word.len(), is_entry)))
            .max();
        if let Some((after, is_entry)) = keyword {
            functions.push(Function {
                name: function_name(&head[after..])?,
                is_entry,
                header_end: start + head.trim_end().len(),
                body: &ptx[end + 1..close],
            });
        }
        start = close + 1;
    }
    Ok(functions)
}

/// The name in ` name(params)` or ` (.param .b32 result) name(params)`.
fn function_name(signature: &str) -> Result<&str> {
    let mut rest = signature.trim_start();
    if rest.starts_with('(') {
        rest = rest
            .split_once(')')
            .map_or("", |(_, after)| after)
            .trim_start();
    }
    let end = rest
        .find(|c: char| c == '(' || c.is_whitespace())
        .unwrap_or(rest.len());
    if end == 0 {
        bail!("a function without a name: {signature:?}");
    }
    Ok(&rest[..end])
}

fn matching_brace(ptx: &str, open: usize) -> Result<usize> {
    let mut depth = 0;
    for (idx, byte) in ptx.bytes().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Ok(idx);
        }
    }
    bail!("unbalanced braces in the PTX text")
}

/// The instructions of a body, each without its label and predicate.
fn instructions(body: &str) -> impl Iterator<Item = &str> {
    body.split([';', '{', '}']).filter_map(|statement| {
        let mut rest = statement.trim();
        while let Some((first, after)) = rest.split_once(char::is_whitespace) {
            if !(first.ends_with(':') || first.starts_with('@')) {
                break;
            }
            rest = after.trim_start();
        }
        (!rest.is_empty() && !rest.starts_with('.')).then_some(rest)
    })
}

/// Counts the convergent operations of a body.
pub(crate) fn collectives(body: &str) -> Collectives {
    let mut count = Collectives::default();
    for instruction in instructions(body) {
        let opcode = instruction
            .split(char::is_whitespace)
            .next()
            .unwrap_or_default();
        let parts: Vec<&str> = opcode.split('.').collect();
        match parts[..] {
            ["barrier", "cluster", "arrive", ..] => count.cluster_arrives += 1,
            ["barrier", "cluster", "wait", ..] => count.cluster_waits += 1,
            ["bar", "warp", ..] => count.warp += 1,
            ["bar" | "barrier", ..] => count.barriers += 1,
            // shfl.sync, vote.sync, match.any.sync, redux.sync, mma.sync, ...
            _ if parts.contains(&"sync") => count.warp += 1,
            _ => {}
        }
    }
    count
}

/// Names of the functions that a body calls; an indirect call gives its register.
pub(crate) fn callees(body: &str) -> Vec<&str> {
    instructions(body)
        .filter_map(|instruction| {
            let (opcode, operands) = instruction.split_once(char::is_whitespace)?;
            if opcode != "call" && opcode != "call.uni" {
                return None;
            }
            let mut callee = operands.trim_start();
            if callee.starts_with('(') {
                callee = callee.split_once(')')?.1;
            }
            callee
                .trim_start_matches(|c: char| c == ',' || c.is_whitespace())
                .split([',', ' ', '\n', '('])
                .next()
        })
        .collect()
}

/// Inserts `.maxntid`, `.minnctapersm` and `.reqnctapercluster`: rustc has no attribute for them.
///
/// `bounds` answers for an entry's name; an entry it does not know is an error.
pub(crate) fn insert_launch_bounds(
    ptx: &str,
    bounds: impl Fn(&str) -> Option<LaunchBounds>,
) -> Result<String> {
    let mut text = String::with_capacity(ptx.len() + 256);
    let mut copied = 0;
    for function in functions(ptx)?.iter().filter(|function| function.is_entry) {
        let name = function.name;
        let Some(LaunchBounds {
            threads,
            cluster,
            min_blocks,
        }) = bounds(name)
        else {
            bail!("the PTX has an entry {name} that is missing in gpu_kernels::table::KERNELS");
        };
        text.push_str(&ptx[copied..function.header_end]);
        text.push_str(&format!("\n.maxntid {threads}, 1, 1"));
        if min_blocks != 0 {
            text.push_str(&format!("\n.minnctapersm {min_blocks}"));
        }
        if cluster != 0 {
            text.push_str(&format!("\n.reqnctapercluster {cluster}, 1, 1"));
        }
        copied = function.header_end;
    }
    text.push_str(&ptx[copied..]);
    Ok(text)
}

/// Convergent operations that were written as inline assembly, which LLVM does not know to be
/// convergent and may therefore duplicate or move. Needs the text as LLVM wrote it.
pub(crate) fn collectives_in_inline_asm(ptx: &str) -> Vec<&str> {
    let mut is_asm = false;
    let mut found = Vec::new();
    for line in ptx.lines().map(str::trim) {
        match line {
            "// begin inline asm" => is_asm = true,
            "// end inline asm" => is_asm = false,
            _ if is_asm && collectives(line) != Collectives::default() => found.push(line),
            _ => {}
        }
    }
    found
}

/// The text without comments, line numbers of sources and repeated blank lines.
pub(crate) fn strip_noise(ptx: &str) -> String {
    let mut text = String::with_capacity(ptx.len());
    let mut is_blank = true;
    for line in ptx.lines() {
        let code = line.find("//").map_or(line, |at| &line[..at]).trim_end();
        let word = code.trim_start();
        if word.starts_with(".loc ") || word.starts_with(".file ") {
            continue;
        }
        // A line that held only a comment leaves no blank line behind.
        if code.is_empty() && (is_blank || !line.trim().is_empty()) {
            continue;
        }
        is_blank = code.is_empty();
        text.push_str(code);
        text.push('\n');
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const PTX: &str = "\
// key: first
// source-sha256: abc
.version 8.0
.target sm_90
.address_size 64

.extern .shared .align 16 .b8 dyn_smem[];
.global .align 4 .b8 data[4] = {1, 2, 3, 4};
.extern .func vprintf (.param .b64 a);
.func (.param .b32 func_retval0) helper(
\t.param .b32 helper_param_0
)
{
\tret;
}
\t// .globl\tone
.visible .entry one(
\t.param .u64 .ptr .align 1 one_param_0,
\t.param .u32 one_param_1
)
{
\t.reg .b32 \t%r<12>;
\t@%p1 bra \t$L__BB2_2;
\t// begin inline asm
\t{ .reg .u64 t; mov.u64 t, dyn_smem; }
\t// end inline asm
$L__BB2_2:
\tbar.sync \t0;
\tshfl.sync.bfly.b32 \t%r10, %r7, 1, 31, -1;
\t@!%p2 bar.red.popc.u32 \t%r22, 0, %p7;
\tvote.sync.ballot.b32 \t%r9, %p2, -1;
\tmatch.any.sync.b32 \t%r14, %r2, -1;
\tredux.sync.add.s32 \t%r16, %r2, %r15;
\tbar.warp.sync \t-1;
\tbarrier.cluster.arrive.aligned;
\tbarrier.cluster.wait.aligned;
\tbarrier.cta.sync.aligned.all \t3;
\tactivemask.b32 \t%r23;
\tcp.async.wait_all;
\t{ // callseq 0, 0
\tcall.uni (retval0), helper, (param0);
\t} // callseq 0
\tret;

}
.visible .entry two()
{
\tret;
}
";

    #[test]
    fn functions_are_entries_and_device_functions_with_bodies() {
        let found: Vec<(&str, bool)> = functions(PTX)
            .unwrap()
            .iter()
            .map(|function| (function.name, function.is_entry))
            .collect();
        assert_eq!(found, [("helper", false), ("one", true), ("two", true)]);
    }

    #[test]
    fn collectives_are_counted_by_kind() {
        let functions = functions(&strip_noise(PTX))
            .unwrap()
            .iter()
            .map(|function| collectives(function.body))
            .collect::<Vec<_>>();
        let expected = Collectives {
            barriers: 3,
            cluster_arrives: 1,
            cluster_waits: 1,
            warp: 5,
        };
        assert_eq!(
            functions,
            [Collectives::default(), expected, Collectives::default()]
        );
    }

    #[test]
    fn callees_are_named() {
        let text = strip_noise(PTX);
        assert_eq!(callees(functions(&text).unwrap()[1].body), ["helper"]);
        assert_eq!(callees("call.uni \n\tf, \n(\n);"), ["f"]);
        assert_eq!(callees("@%p1 call (r), %rd1, (p), proto;"), ["%rd1"]);
    }

    #[test]
    fn launch_bounds_follow_the_parameters() {
        let bounds = |name: &str| {
            Some(LaunchBounds {
                threads: if name == "one" { 512 } else { 64 },
                cluster: if name == "one" { 4 } else { 0 },
                min_blocks: if name == "one" { 2 } else { 0 },
            })
        };
        let text = insert_launch_bounds(PTX, bounds).unwrap();
        assert!(
            text.contains(
                "one_param_1\n)\n.maxntid 512, 1, 1\n.minnctapersm 2\n.reqnctapercluster 4, 1, 1\n{\n\t.reg"
            )
        );
        assert!(text.contains(".entry two()\n.maxntid 64, 1, 1\n{"));
        assert!(text.contains("helper_param_0\n)\n{"));
        // Nothing else changed.
        let without: String = text
            .lines()
            .filter(|line| {
                let added = [".maxntid", ".minnctapersm", ".reqncta"];
                !added.iter().any(|bound| line.starts_with(bound))
            })
            .map(|line| format!("{line}\n"))
            .collect();
        assert_eq!(without, PTX);
    }

    #[test]
    fn launch_bounds_of_an_unknown_entry_are_an_error() {
        let error = insert_launch_bounds(PTX, |_| None).unwrap_err().to_string();
        assert!(error.contains("an entry one"), "{error}");
    }

    #[test]
    fn collectives_in_asm_are_found() {
        assert!(collectives_in_inline_asm(PTX).is_empty());
        let bad = "\t// begin inline asm\n\tbar.sync 0;\n\t// end inline asm\n\tbar.sync 1;\n";
        assert_eq!(collectives_in_inline_asm(bad), ["bar.sync 0;"]);
    }

    #[test]
    fn noise_goes_and_code_stays() {
        let text = "//\n// Generated\n//\n\n.version 8.0\n\n\n\t// .globl\ta\n.entry a()\n{\n\
                    \t.loc 1 2 3\n\tret; // done\n\n}\n\n\n";
        assert_eq!(
            strip_noise(text),
            ".version 8.0\n\n.entry a()\n{\n\tret;\n\n}\n"
        );
    }

    #[test]
    fn header_and_target() {
        assert_eq!(header_field(PTX, "source-sha256"), Some("abc"));
        assert_eq!(header_field(PTX, "compiler"), None);
        assert_eq!(target(PTX).unwrap(), "sm_90");
        assert_eq!(target(".target sm_90a, debug\n").unwrap(), "sm_90a");
    }
}
