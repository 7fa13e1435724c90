//! `device-bundle`: everything a GPU machine needs to test and run keysieve, in one folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::workspace;

/// Folders of the packages whose tests touch the device.
const TEST_PACKAGES: [&str; 2] = ["tests", "host"];

/// An executable that cargo built, and its name in the bundle.
#[derive(Debug, PartialEq, Eq)]
struct Executable {
    path: PathBuf,
    name: String,
}

/// Builds tests and binary in release mode and fills `device/` in the target folder.
pub(crate) fn run(data: &[PathBuf]) -> Result<()> {
    // Before minutes of compiling, not after.
    if let Some(path) = data.iter().find(|path| !path.is_file()) {
        bail!("--data {} is not a file", path.display());
    }
    let root = workspace::root();
    // The tests of the command line make cargo build the binary too.
    let executables = cargo_executables(&["test", "--workspace", "--release", "--no-run"], &root)?;
    let dir = workspace::target_dir().join("device");
    // A test that was renamed must not live on in the bundle.
    if dir.exists() {
        fs::remove_dir_all(&dir).with_context(|| format!("cannot empty {}", dir.display()))?;
    }
    fs::create_dir_all(&dir)?;
    for executable in &executables {
        let to = dir.join(&executable.name);
        if to.exists() {
            bail!("two executables want the name {}", executable.name);
        }
        copy(&executable.path, &to)?;
        workspace::run(Command::new("strip").arg(&to))?;
    }
    copy_peers(&root.join("benches/peers"), &dir.join("peers"))?;
    for path in data {
        let name = path
            .file_name()
            .with_context(|| format!("--data {} names no file", path.display()))?;
        fs::create_dir_all(dir.join("data"))?;
        copy(path, &dir.join("data").join(name))?;
    }
    let n_bytes = print_tree(&dir, &dir)?;
    println!("{:>9.1} MiB  {}", mebibytes(n_bytes), dir.display());
    Ok(())
}

/// Runs cargo and collects the executables of our packages from its messages.
fn cargo_executables(args: &[&str], root: &Path) -> Result<Vec<Executable>> {
    let mut command = workspace::cargo();
    command
        .args(args)
        .arg("--message-format=json-render-diagnostics")
        .stderr(Stdio::inherit());
    let output = workspace::capture(&mut command)?;
    let messages = String::from_utf8(output.stdout)?;
    let mut executables = Vec::new();
    for line in messages.lines().filter(|line| line.starts_with('{')) {
        let message = serde_json::from_str(line)?;
        executables.extend(parse_executable(&message, root));
        executables.extend(parse_sim_driver(&message, root));
    }
    Ok(executables)
}

/// The executable that a message of cargo announces, if it is for the bundle.
fn parse_executable(message: &Value, root: &Path) -> Option<Executable> {
    let path = PathBuf::from(message["executable"].as_str()?);
    let manifest = Path::new(message["manifest_path"].as_str()?);
    if !TEST_PACKAGES
        .iter()
        .any(|package| manifest == root.join(package).join("Cargo.toml"))
    {
        return None;
    }
    let target = &message["target"];
    let name = target["name"].as_str()?;
    let is_test = message["profile"]["test"].as_bool()?;
    // Unit tests share their target's name with the library and the binary.
    let name = match target["kind"][0].as_str()? {
        "test" => name.to_owned(),
        "bin" if !is_test => name.to_owned(),
        "lib" | "bin" if is_test => {
            format!("{name}-{}-unit", target["kind"][0].as_str()?)
        }
        _ => return None,
    };
    Some(Executable { path, name })
}

/// The simulated driver, which the tests open beside themselves.
fn parse_sim_driver(message: &Value, root: &Path) -> Option<Executable> {
    let manifest = Path::new(message["manifest_path"].as_str()?);
    if manifest != root.join("tests/sim-driver/Cargo.toml") || message["profile"]["test"] == true {
        return None;
    }
    let files = message["filenames"].as_array()?.iter();
    let path = files
        .filter_map(|file| Some(PathBuf::from(file.as_str()?)))
        .find(|file| file.extension().is_some_and(|extension| extension == "so"))?;
    let name = path.file_name()?.to_str()?.to_owned();
    Some(Executable { path, name })
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to)
        .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    Ok(())
}

fn copy_peers(from: &Path, to: &Path) -> Result<()> {
    if !from.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "py") {
            copy(
                &path,
                &to.join(path.file_name().expect("a listed file has a name")),
            )?;
        }
    }
    Ok(())
}

/// Prints each file with its size and returns the sum.
fn print_tree(dir: &Path, base: &Path) -> Result<u64> {
    let mut paths = fs::read_dir(dir)?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    paths.sort();
    let mut n_bytes = 0;
    for path in paths {
        if path.is_dir() {
            n_bytes += print_tree(&path, base)?;
            continue;
        }
        let size = fs::metadata(&path)?.len();
        let name = path.strip_prefix(base)?.display();
        println!("{:>9.1} MiB  {name}", mebibytes(size));
        n_bytes += size;
    }
    Ok(n_bytes)
}

fn mebibytes(n_bytes: u64) -> f64 {
    n_bytes as f64 / f64::from(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn artifact(package: &str, kind: &str, name: &str, is_test: bool) -> Value {
        json!({
            "reason": "compiler-artifact",
            "manifest_path": format!("/k/{package}/Cargo.toml"),
            "target": { "kind": [kind], "name": name },
            "profile": { "test": is_test },
            "executable": "/k/target/release/deps/x-0123456789abcdef",
        })
    }

    fn name_of(message: &Value) -> Option<String> {
        parse_executable(message, Path::new("/k")).map(|executable| executable.name)
    }

    #[test]
    fn names_have_no_hash_and_do_not_collide() {
        let test = artifact("tests", "test", "top_k", true);
        assert_eq!(name_of(&test).as_deref(), Some("top_k"));
        let lib = artifact("host", "lib", "keysieve", true);
        assert_eq!(name_of(&lib).as_deref(), Some("keysieve-lib-unit"));
        let bin = artifact("host", "bin", "keysieve", false);
        assert_eq!(name_of(&bin).as_deref(), Some("keysieve"));
    }

    #[test]
    fn the_simulated_driver_comes_along() {
        let mut message = artifact("tests/sim-driver", "cdylib", "keysieve_sim_driver", false);
        let library = "/k/target/release/deps/libkeysieve_sim_driver.so";
        message["filenames"] = json!([library, "/k/target/release/deps/x.rlib"]);
        let found = parse_sim_driver(&message, Path::new("/k")).unwrap();
        assert_eq!(found.name, "libkeysieve_sim_driver.so");
        assert_eq!(found.path, Path::new(library));
    }

    #[test]
    fn other_packages_and_libraries_are_left_out() {
        assert_eq!(name_of(&artifact("xtask", "bin", "xtask", true)), None);
        let mut library = artifact("host", "lib", "keysieve", false);
        library["executable"] = Value::Null;
        assert_eq!(name_of(&library), None);
        assert_eq!(name_of(&json!({"reason": "build-finished"})), None);
    }
}
