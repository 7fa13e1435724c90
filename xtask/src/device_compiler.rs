//! Finds a rustc that can compile for `nvptx64-nvidia-cuda`: one that has the sources of `core`.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, anyhow, bail};

use crate::workspace;

const MIN_VERSION: (u32, u32) = (1, 95);

/// A rustc with the sources of `core`, and the cargo that goes with it.
pub(crate) struct DeviceCompiler {
    rustc: OsString,
    cargo: OsString,
    /// Folder that holds `library/core`.
    pub(crate) rust_src: PathBuf,
    /// Version of rustc and of its LLVM, as the header of a PTX file states it.
    pub(crate) version: String,
}

impl DeviceCompiler {
    /// The active toolchain if it has the sources, else a distribution's `/usr/bin/rustc`.
    ///
    /// The error says why each candidate was refused and how to install one.
    pub(crate) fn find() -> Result<Self> {
        let active = (
            env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()),
            env::var_os("CARGO").unwrap_or_else(|| "cargo".into()),
        );
        let system = ("/usr/bin/rustc".into(), "/usr/bin/cargo".into());
        let mut reasons = String::new();
        for (rustc, cargo) in [active, system] {
            let name = rustc.to_string_lossy().into_owned();
            match Self::probe(rustc, cargo) {
                Ok(compiler) => return Ok(compiler),
                Err(reason) => reasons += &format!("  {name}: {reason}\n"),
            }
        }
        bail!(
            "no device compiler: a rustc >= {}.{} with the sources of `core` is needed\n{reasons}\
             Install one with either\n  \
             rustup component add rust-src\n  \
             apt-get install rustc-web cargo-web rust-web-src   (Debian)",
            MIN_VERSION.0,
            MIN_VERSION.1
        )
    }

    fn probe(rustc: OsString, cargo: OsString) -> Result<Self> {
        let ask = |args: &[&str]| -> Result<String> {
            let mut command = Command::new(&rustc);
            command.args(args).current_dir(workspace::root());
            let output = workspace::capture(&mut command)?;
            Ok(String::from_utf8(output.stdout)?.trim().to_owned())
        };
        let (release, version) = parse_version(&ask(&["-vV"])?)?;
        if release < MIN_VERSION {
            bail!("{version} is too old");
        }
        let sysroot = ask(&["--print", "sysroot"])?;
        let rust_src = Path::new(&sysroot).join("lib/rustlib/src/rust");
        let core = rust_src.join("library/core");
        if !core.is_dir() {
            bail!("{version} has no {}", core.display());
        }
        Ok(Self {
            rustc,
            cargo,
            rust_src,
            version,
        })
    }

    /// A cargo command that compiles with this compiler and with nothing else from outside.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = Command::new(&self.cargo);
        command.env("RUSTC", &self.rustc);
        // -Zbuild-std and the nvptx ABI are unstable; the host build never sees this variable.
        command.env("RUSTC_BOOTSTRAP", "1");
        // Set by the cargo that runs xtask, for its own toolchain.
        command.env_remove("LD_LIBRARY_PATH");
        // Whatever else could change the bytes.
        for name in ["RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER"] {
            command.env_remove(name);
        }
        command.current_dir(workspace::root());
        command
    }
}

/// (major, minor) and the line for a header, from the output of `rustc -vV`.
fn parse_version(text: &str) -> Result<((u32, u32), String)> {
    let field = |key: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(key))
            .map(str::trim)
            .ok_or_else(|| anyhow!("`rustc -vV` printed no `{key}`"))
    };
    let mut numbers = field("release:")?.split('.').map_while(|n| n.parse().ok());
    let (Some(major), Some(minor)) = (numbers.next(), numbers.next()) else {
        bail!("`rustc -vV` printed an odd release");
    };
    // Distributions append a remark of their own after the hash and the date.
    let first = text.lines().next().unwrap_or_default();
    let rustc = first.find(')').map_or(first, |end| &first[..=end]);
    // The same rustc comes with different LLVMs, and the LLVM decides the bytes.
    let llvm = field("LLVM version:")?;
    Ok(((major, minor), format!("{rustc}, LLVM {llvm}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_leaves_out_the_distributions_remark() {
        let text = "rustc 1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)\n\
                    binary: rustc\nrelease: 1.96.0\nLLVM version: 22.1.8\n";
        let (release, version) = parse_version(text).unwrap();
        assert_eq!(release, (1, 96));
        assert_eq!(version, "rustc 1.96.0 (ac68faa20 2026-05-25), LLVM 22.1.8");
    }

    #[test]
    fn version_without_a_release_is_an_error() {
        assert!(parse_version("rustc\n").is_err());
    }
}
