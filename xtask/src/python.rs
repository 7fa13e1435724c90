//! `python`: builds and installs the Python package as a user would, and runs its tests.

use std::process::Command;

use anyhow::Result;

use crate::workspace;

/// Whether there is a Python that can install packages.
pub(crate) fn is_there() -> bool {
    Command::new("python3")
        .args(["-m", "pip", "--version"])
        .output()
        .is_ok_and(|output| output.status.success())
}

/// Installs the package and what its tests need into a folder of their own, then runs pytest.
pub(crate) fn run() -> Result<()> {
    let dir = workspace::target_dir().join("python");
    let package = workspace::root().join("python");
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--upgrade", "--target"])
        .arg(&dir)
        .args(["numpy", "pytest"])
        .arg(&package)
        // The package's own build then takes what the workspace has compiled already.
        .env("CARGO_TARGET_DIR", workspace::target_dir());
    workspace::run(&mut pip)?;
    let mut pytest = Command::new("python3");
    // In their folder: in the package's, Python would find the sources, which have no native module.
    pytest
        .args(["-m", "pytest", "-q", "-p", "no:cacheprovider"])
        .current_dir(package.join("tests"))
        .env("PYTHONPATH", &dir)
        // Where the simulated driver is.
        .env("CARGO_TARGET_DIR", workspace::target_dir())
        .env("PYTHONDONTWRITEBYTECODE", "1");
    workspace::run(&mut pytest)
}
