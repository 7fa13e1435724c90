//! ptxas: finds one that is new enough, runs it, reads what it reports.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::workspace;

/// The PyPI package that ptxas is taken from when PATH has none.
const WHEEL: &str = "nvidia-cuda-nvcc";
const WHEEL_VERSION: &str = "13.0.88";
/// The newest chip we assemble for: an older ptxas does not know it.
const NEWEST_ARCH: &str = "sm_120";

/// What `ptxas -v` says about one entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) name: String,
    pub(crate) registers: u32,
    pub(crate) stack_bytes: u32,
    pub(crate) spill_store_bytes: u32,
    pub(crate) spill_load_bytes: u32,
    /// Static shared memory; what a launch asks for comes on top.
    pub(crate) shared_bytes: u32,
}

/// A ptxas that knows every chip we assemble for.
pub(crate) struct Ptxas {
    program: PathBuf,
}

impl Ptxas {
    /// From PATH, else from the wheel, which is installed into the target folder once.
    pub(crate) fn find() -> Result<Self> {
        let on_path = Self {
            program: "ptxas".into(),
        };
        if on_path.knows_newest_arch() {
            return Ok(on_path);
        }
        let dir = workspace::target_dir().join(format!("ptxas-{WHEEL_VERSION}"));
        if find_file(&dir, "ptxas").is_none() {
            println!("installing ptxas from the wheel {WHEEL} {WHEEL_VERSION}");
            let mut pip = Command::new("python3");
            pip.args(["-m", "pip", "install", "--quiet", "--no-deps", "--target"])
                .arg(&dir)
                .arg(format!("{WHEEL}=={WHEEL_VERSION}"));
            workspace::capture(&mut pip).with_context(|| {
                format!("no ptxas that knows {NEWEST_ARCH} on PATH, and none from PyPI")
            })?;
        }
        let program = find_file(&dir, "ptxas")
            .with_context(|| format!("no ptxas in {WHEEL} {WHEEL_VERSION}"))?;
        make_executable(&program)?;
        let from_wheel = Self { program };
        if !from_wheel.knows_newest_arch() {
            bail!("{} does not run", from_wheel.program.display());
        }
        Ok(from_wheel)
    }

    fn knows_newest_arch(&self) -> bool {
        Command::new(&self.program)
            .arg("--help")
            .output()
            .is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(NEWEST_ARCH))
    }

    /// Assembles a PTX file for `arch` and reports on each entry.
    pub(crate) fn assemble(&self, ptx: &Path, arch: &str) -> Result<Vec<Usage>> {
        let cubin = workspace::target_dir().join("check-ptx.cubin");
        let mut command = Command::new(&self.program);
        command
            .args(["-v", &format!("-arch={arch}"), "-o"])
            .arg(&cubin)
            .arg(ptx);
        let output = workspace::capture(&mut command)?;
        parse_report(&String::from_utf8_lossy(&output.stderr))
    }
}

/// Reads the lines that `ptxas -v` prints for each entry.
fn parse_report(report: &str) -> Result<Vec<Usage>> {
    let mut usages: Vec<Usage> = Vec::new();
    for line in report.lines() {
        if let Some(rest) = line.split("Compiling entry function '").nth(1) {
            let name = rest.split('\'').next().unwrap_or_default().to_owned();
            usages.push(Usage {
                name,
                ..Usage::default()
            });
        } else if let Some(usage) = usages.last_mut() {
            // Device functions have lines of their own; what they use counts for their caller.
            let number = |unit| number_before(line, unit);
            let add = |sum: &mut u32, unit| *sum += number(unit).unwrap_or(0);
            add(&mut usage.stack_bytes, " bytes stack frame");
            add(&mut usage.spill_store_bytes, " bytes spill stores");
            add(&mut usage.spill_load_bytes, " bytes spill loads");
            add(&mut usage.shared_bytes, " bytes smem");
            if let Some(registers) = number(" registers") {
                usage.registers = registers;
            }
        }
    }
    if let Some(usage) = usages.iter().find(|usage| usage.registers == 0) {
        bail!("ptxas reported no registers for {}:\n{report}", usage.name);
    }
    Ok(usages)
}

/// The number in front of the first occurrence of `unit`.
fn number_before(line: &str, unit: &str) -> Option<u32> {
    let before = &line[..line.find(unit)?];
    let start = before
        .rfind(|c: char| !c.is_ascii_digit())
        .map_or(0, |at| at + 1);
    before[start..].parse().ok()
}

fn find_file(dir: &Path, name: &str) -> Option<PathBuf> {
    for entry in fs::read_dir(dir).ok()?.flatten() {
        let path = entry.path();
        if path.is_dir() {
            if let Some(found) = find_file(&path, name) {
                return Some(found);
            }
        } else if path.file_name().is_some_and(|file| file == name) {
            return Some(path);
        }
    }
    None
}

#[cfg(unix)]
fn make_executable(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("cannot make {} executable", path.display()))
}

#[cfg(not(unix))]
fn make_executable(_: &Path) -> Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = "\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'select' for 'sm_90'
ptxas info    : Function properties for select
    160 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 64 registers, used 1 barriers, 160 bytes cumulative stack size, 1024 bytes smem
ptxas info    : Compile time = 2.194 ms
ptxas info    : Compiling entry function 'encode' for 'sm_90'
ptxas info    : Function properties for encode
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 10 registers, used 0 barriers, 400 bytes cmem[0]
";

    #[test]
    fn report_is_read_entry_by_entry() {
        let usages = parse_report(REPORT).unwrap();
        let select = Usage {
            name: "select".to_owned(),
            registers: 64,
            stack_bytes: 160,
            spill_store_bytes: 8,
            spill_load_bytes: 12,
            shared_bytes: 1024,
        };
        let encode = Usage {
            name: "encode".to_owned(),
            registers: 10,
            ..Usage::default()
        };
        assert_eq!(usages, [select, encode]);
    }

    #[test]
    fn report_without_registers_is_an_error() {
        assert!(parse_report("ptxas info : Compiling entry function 'a' for 'sm_90'").is_err());
        assert_eq!(parse_report("").unwrap(), []);
    }
}
