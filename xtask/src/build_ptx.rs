//! `build-ptx`: gpu-kernels to PTX, the same bytes on every machine with the same compiler.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use gpu_kernels::kernel::ANY_CLUSTER;
use gpu_kernels::table::KERNELS;
use sha2::{Digest, Sha256};

use crate::device_compiler::DeviceCompiler;
use crate::ptx_text::{self, LaunchBounds};
use crate::workspace;

/// One committed file: the oldest chip it is for, and the PTX version it is written in.
pub(crate) struct Target {
    /// Value of `-C target-cpu`.
    pub(crate) cpu: &'static str,
    /// The lowest version that has what the kernels use: a newer one shuts out older drivers.
    isa: &'static str,
    file_name: &'static str,
    /// Whether these chips have clusters of blocks: `cfg(clusters)` in the kernels.
    has_clusters: bool,
    /// Chips that `check-ptx` assembles the file for.
    pub(crate) assembled_for: &'static [&'static str],
}

/// The files of host/ptx.
pub(crate) const TARGETS: [Target; 2] = [
    Target {
        cpu: "sm_80",
        isa: "ptx70",
        file_name: "keysieve_sm80.ptx",
        has_clusters: false,
        assembled_for: &["sm_80", "sm_90", "sm_100", "sm_120"],
    },
    Target {
        cpu: "sm_90",
        isa: "ptx80",
        file_name: "keysieve_sm90.ptx",
        has_clusters: true,
        assembled_for: &["sm_90", "sm_100", "sm_120"],
    },
];

const COMMAND: &str = "cargo xtask build-ptx";
const TITLE: &str = "// keysieve device code. Written by `cargo xtask build-ptx`; do not edit.";

/// The release profile of the device build, whatever the workspace says about the host's.
const PROFILE: [(&str, &str); 8] = [
    ("CODEGEN_UNITS", "1"),
    ("DEBUG", "false"),
    ("DEBUG_ASSERTIONS", "false"),
    ("INCREMENTAL", "false"),
    ("LTO", "fat"),
    ("OPT_LEVEL", "3"),
    ("OVERFLOW_CHECKS", "false"),
    // A panic is one trap instruction: no call in a kernel, no message that names a folder.
    ("PANIC", "immediate-abort"),
];

impl Target {
    /// Where the committed file is.
    pub(crate) fn path(&self) -> PathBuf {
        workspace::root().join("host/ptx").join(self.file_name)
    }

    /// The file, named as a user would type it.
    pub(crate) fn display_path(&self) -> String {
        format!("host/ptx/{}", self.file_name)
    }

    /// The committed text.
    pub(crate) fn read(&self) -> Result<String> {
        fs::read_to_string(self.path())
            .with_context(|| format!("cannot read {}: run `{COMMAND}`", self.display_path()))
    }

    /// Compute capability as one number: 80, 90.
    pub(crate) fn sm(&self) -> u32 {
        let digits = self.cpu.trim_start_matches("sm_");
        digits.parse().expect("TARGETS name plain sm_ numbers")
    }

    /// Flags for `core` and for the kernels.
    fn flags(&self) -> Vec<String> {
        let mut flags = vec![
            format!("-Ctarget-cpu={}", self.cpu),
            format!("-Ctarget-feature=+{}", self.isa),
            // rustc does not know that a barrier must not be duplicated: this pass copies one into
            // both arms of a condition that is asked twice, and the GPU hangs.
            "-Zmir-enable-passes=-JumpThreading".to_owned(),
            // The assembly of a fat-LTO cdylib is the whole program; there is nothing to link.
            "-Clinker=true".to_owned(),
        ];
        if self.has_clusters {
            flags.push("--cfg=clusters".to_owned());
        }
        flags
    }
}

/// Compiles every target and writes the files that changed.
pub(crate) fn build() -> Result<()> {
    let compiler = DeviceCompiler::find()?;
    for target in &TARGETS {
        let text = compile(&compiler, target)?;
        let path = target.path();
        if fs::read_to_string(&path).is_ok_and(|old| old == text) {
            println!("{} is unchanged", target.display_path());
            continue;
        }
        fs::create_dir_all(path.parent().expect("host/ptx has a parent"))?;
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        println!("{} is written", target.display_path());
    }
    Ok(())
}

/// Fails when a committed file was compiled from other sources than those at hand.
pub(crate) fn check_hashes() -> Result<()> {
    for target in &TARGETS {
        let text = target.read()?;
        let committed = ptx_text::header_field(&text, "source-sha256").unwrap_or("none");
        let expected = source_hash(target)?;
        if committed != expected {
            bail!(
                "{} is stale: run `{COMMAND}`\n  its sources had sha256 {committed}\n  \
                 the sources now have {expected}",
                target.display_path()
            );
        }
        println!("{} belongs to the sources", target.display_path());
    }
    Ok(())
}

/// Compiles every target again and fails when the bytes differ from the committed ones.
///
/// Another compiler may write other bytes: then only the names of the entries are compared.
pub(crate) fn verify() -> Result<()> {
    let compiler = DeviceCompiler::find()?;
    for target in &TARGETS {
        let committed = target.read()?;
        let name = target.display_path();
        let built = compile(&compiler, target)?;
        let built_path = build_dir(target).join(target.file_name);
        fs::write(&built_path, &built)?;
        let committed_by = ptx_text::header_field(&committed, "compiler").unwrap_or("unknown");
        if committed_by != compiler.version {
            if entry_names(&committed)? != entry_names(&built)? {
                bail!(
                    "{name} has the entries {:?}, the sources give {:?}: run `{COMMAND}`",
                    entry_names(&committed)?,
                    entry_names(&built)?
                );
            }
            println!(
                "{name}: bytes not compared, only the names of the entries: it was compiled by \
                 {committed_by}, the compiler here is {}",
                compiler.version
            );
        } else if committed != built {
            let n_equal = committed
                .lines()
                .zip(built.lines())
                .take_while(|(old, new)| old == new)
                .count();
            bail!(
                "{name} differs from what the sources give ({}), first in line {}: run `{COMMAND}`",
                built_path.display(),
                n_equal + 1
            );
        } else {
            println!("{name} is what {} makes of the sources", compiler.version);
        }
    }
    Ok(())
}

fn entry_names(ptx: &str) -> Result<Vec<&str>> {
    let functions = ptx_text::functions(ptx)?;
    let mut names: Vec<&str> = functions
        .iter()
        .filter(|function| function.is_entry)
        .map(|function| function.name)
        .collect();
    names.sort_unstable();
    Ok(names)
}

fn build_dir(target: &Target) -> PathBuf {
    workspace::target_dir().join("ptx").join(target.cpu)
}

/// The text of a file of host/ptx.
fn compile(compiler: &DeviceCompiler, target: &Target) -> Result<String> {
    println!(
        "compiling gpu-kernels for {} with {}",
        target.cpu, compiler.version
    );
    let target_dir = build_dir(target);
    let assembly_path = target_dir.join("nvptx64-nvidia-cuda/release/deps/gpu_kernels.s");
    let root = workspace::root();
    let mut flags = target.flags();
    for (from, to) in [
        (root.as_path(), "/keysieve"),
        (compiler.rust_src.as_path(), "/rust"),
    ] {
        flags.push(format!("--remap-path-prefix={}={to}", from.display()));
    }
    let mut command = compiler.cargo();
    command
        .args(["rustc", "--package", "gpu-kernels", "--lib", "--release"])
        .args(["--crate-type", "cdylib", "--target", "nvptx64-nvidia-cuda"])
        .args(["-Zbuild-std=core", "-Zpanic-immediate-abort"])
        .args(["--", "--emit=asm"])
        .env("CARGO_TARGET_DIR", &target_dir)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    for (name, value) in PROFILE {
        command.env(format!("CARGO_PROFILE_RELEASE_{name}"), value);
    }
    let output = workspace::capture(&mut command)?;
    print_warnings(&String::from_utf8_lossy(&output.stderr));
    let assembly = fs::read_to_string(&assembly_path)
        .with_context(|| format!("cargo succeeded without {}", assembly_path.display()))?;
    finish(&assembly, target, &source_hash(target)?, &compiler.version)
}

/// Compiler warnings, less the one that every build gives about our own flags.
fn print_warnings(stderr: &str) {
    for paragraph in stderr.split("\n\n") {
        let is_ours = paragraph.contains("unstable feature specified for `-Ctarget-feature`");
        if paragraph.contains("warning: ") && paragraph.contains("-->") && !is_ours {
            eprintln!("{paragraph}\n");
        }
    }
}

/// LLVM's assembly to the text of a committed file.
fn finish(assembly: &str, target: &Target, hash: &str, compiler: &str) -> Result<String> {
    let in_asm = ptx_text::collectives_in_inline_asm(assembly);
    if !in_asm.is_empty() {
        bail!("convergent operations must be LLVM intrinsics, these are inline asm: {in_asm:?}");
    }
    let text = ptx_text::strip_noise(assembly);
    let text = ptx_text::insert_launch_bounds(&text, |name| {
        let kernel = KERNELS.iter().find(|kernel| kernel.name == name)?;
        Some(LaunchBounds {
            threads: kernel.threads,
            // A size of the launch's own is no bound.
            cluster: if kernel.cluster == ANY_CLUSTER {
                0
            } else {
                kernel.cluster
            },
            min_blocks: kernel.min_blocks,
        })
    })?;
    let root = workspace::root();
    if text.contains(&*root.to_string_lossy()) {
        bail!("the PTX names this machine's folder {}", root.display());
    }
    Ok(format!(
        "{TITLE}\n// source-sha256: {hash}\n// compiler: {compiler}\n// target: {}\n{text}",
        target.cpu
    ))
}

/// SHA-256 over everything of ours that decides the bytes: kernel sources and compile flags.
fn source_hash(target: &Target) -> Result<String> {
    let crate_dir = workspace::root().join("gpu-kernels");
    let mut paths = vec![crate_dir.join("Cargo.toml")];
    collect_sources(&crate_dir.join("src"), &mut paths)?;
    let mut files = Vec::new();
    for path in &paths {
        let name = path.strip_prefix(&crate_dir)?.to_string_lossy();
        files.push((name.replace('\\', "/"), fs::read(path)?));
    }
    let profile = PROFILE
        .iter()
        .map(|(name, value)| format!("{name}={value}"));
    let flags: Vec<String> = target.flags().into_iter().chain(profile).collect();
    Ok(hash_sources(files, &flags))
}

fn collect_sources(dir: &Path, paths: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            collect_sources(&path, paths)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            paths.push(path);
        }
    }
    Ok(())
}

/// Independent of the order in which the files were found.
fn hash_sources(mut files: Vec<(String, Vec<u8>)>, flags: &[String]) -> String {
    files.sort();
    let mut hasher = Sha256::new();
    // Lengths keep neighbours apart: moving a byte from one field to the next changes the hash.
    let mut field = |bytes: &[u8]| {
        hasher.update((bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    for (name, content) in &files {
        field(name.as_bytes());
        field(content);
    }
    for flag in flags {
        field(flag.as_bytes());
    }
    let digest = hasher.finalize();
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, content: &str) -> (String, Vec<u8>) {
        (name.to_owned(), content.as_bytes().to_vec())
    }

    #[test]
    fn hash_is_stable() {
        let flags = ["-Ctarget-cpu=sm_90".to_owned()];
        let hash = hash_sources(vec![file("a.rs", "one"), file("b.rs", "two")], &flags);
        let reversed = hash_sources(vec![file("b.rs", "two"), file("a.rs", "one")], &flags);
        assert_eq!(hash, reversed);
        // Committed files carry hashes of this format: changing it makes all of them stale.
        assert_eq!(
            hash,
            "220e1d32b4ceb24a999c6cae1586f8f35f52cc0913c143fe44c6a78a906b1635"
        );
    }

    #[test]
    fn hash_sees_names_contents_borders_and_flags() {
        let hashes = [
            hash_sources(vec![file("a", "bc")], &[]),
            hash_sources(vec![file("ab", "c")], &[]),
            hash_sources(vec![file("a", "bd")], &[]),
            hash_sources(vec![file("a", "bc")], &["x".to_owned()]),
            hash_sources(vec![file("a", "bc")], &["y".to_owned()]),
        ];
        for (idx, hash) in hashes.iter().enumerate() {
            assert!(!hashes[..idx].contains(hash), "{idx}");
        }
    }

    #[test]
    fn targets_know_their_number() {
        assert_eq!(TARGETS.map(|target| target.sm()), [80, 90]);
    }

    #[test]
    fn finish_writes_the_header_that_check_reads() {
        let assembly = "//\n.version 8.0\n.target sm_90\n";
        let text = finish(assembly, &TARGETS[1], "abc", "rustc 1.96.0").unwrap();
        assert_eq!(ptx_text::header_field(&text, "source-sha256"), Some("abc"));
        assert_eq!(
            ptx_text::header_field(&text, "compiler"),
            Some("rustc 1.96.0")
        );
        assert_eq!(ptx_text::header_field(&text, "target"), Some("sm_90"));
    }

    #[test]
    fn finish_refuses_collectives_in_asm() {
        let assembly = "// begin inline asm\nbar.sync 0;\n// end inline asm\n";
        assert!(finish(assembly, &TARGETS[1], "abc", "rustc").is_err());
    }
}
