//! `keysieve bench` as a user runs it.

use std::fs;
use std::process::{Command, Output};

use serde_json::Value;

/// A step small enough that a test may measure it.
const SMALL: &[&str] = &[
    "--backend",
    "cpu",
    "--heads",
    "4",
    "--kv-heads",
    "2",
    "--tokens",
    "700",
    "--head-dim",
    "24",
    "--subvectors",
    "3",
    "--bits",
    "4",
    "--sink",
    "16",
    "--window",
    "32",
    "--heavy",
    "40",
    "--warmup",
    "1",
    "--runs",
    "3",
];

fn bench(options: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_keysieve"))
        .arg("bench")
        .args(options)
        .output()
        .unwrap()
}

fn json_of(options: &[&str]) -> Value {
    let output = bench(&[options, &["--json", "-"]].concat());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn json_has_every_figure() {
    let value = json_of(SMALL);
    assert_eq!(value["backend"], "cpu");
    assert_eq!(value["checked"], true);
    assert_eq!(value["launches"], 0);
    let shape = &value["shape"];
    for (name, expected) in [
        ("batch", 1),
        ("num_qo_heads", 4),
        ("num_kv_heads", 2),
        ("tokens", 700),
        ("head_dim", 24),
        ("num_subvectors", 3),
        ("bits", 4),
        ("init_offset", 16),
        ("sink", 16),
        ("window", 32),
        ("heavy", 40),
    ] {
        assert_eq!(shape[name], expected, "{name}");
    }
    assert_eq!(shape["weights"], true);
    let step = |figure: &str| value["step_us"][figure].as_f64().unwrap();
    assert!(step("min") > 0.0 && step("std") >= 0.0);
    for figure in ["average", "median"] {
        assert!(step("min") <= step(figure) && step(figure) <= step("max"));
    }
    for stage in ["codes", "lut", "scores", "top_k", "index_list", "weights"] {
        assert!(
            value["stages_us"][stage].as_f64().unwrap() >= 0.0,
            "{stage}"
        );
    }
    assert!(value["bytes"].as_u64() > value["bytes_minimum"].as_u64());
    assert!(value["copy_gb_per_s"].as_f64().unwrap() > 0.0);
    let date = value["date"].as_str().unwrap();
    assert!(date.len() == 10 && date.starts_with("20"), "{date}");
}

#[test]
fn unusual_shapes_are_measured_too() {
    for change in [
        &["--heavy", "0", "--no-weights"][..],
        &["--tokens", "17"],
        &["--sink", "0", "--window", "0", "--init-offset", "0"],
        &["--sink", "900", "--init-offset", "3"],
        &["--window", "900"],
        &["--bits", "1", "--subvectors", "1"],
        &["--batch", "3", "--seed", "18446744073709551615"],
        &["--runs", "1", "--warmup", "0"],
    ] {
        // A later option of the same name would be a second one.
        let mut options: Vec<&str> = Vec::new();
        for pair in SMALL.chunks(2).filter(|pair| !change.contains(&pair[0])) {
            options.extend(pair);
        }
        options.extend(change);
        assert_eq!(json_of(&options)["checked"], true, "{change:?}");
    }
}

#[test]
fn a_person_gets_a_table() {
    let output = bench(SMALL);
    let text = String::from_utf8(output.stdout).unwrap();
    for word in [
        "checked",
        "step_us",
        "top_k",
        "launches",
        "copy bandwidth",
        "bytes moved",
    ] {
        assert!(text.contains(word), "{word} in {text}");
    }
    assert!(output.stderr.is_empty(), "no terminal, no progress bar");
}

#[test]
fn a_trace_has_complete_events_on_named_threads() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trace.json");
    let output = bench(&[SMALL, &["--trace", path.to_str().unwrap()]].concat());
    assert!(output.status.success());
    let trace: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let named: Vec<&Value> = events
        .iter()
        .filter(|event| event["name"] == "thread_name")
        .map(|event| &event["tid"])
        .collect();
    let spans = events.iter().filter(|event| event["ph"] == "X");
    let mut names = Vec::new();
    for span in spans {
        assert!(span["ts"].as_f64().unwrap() >= 0.0 && span["dur"].as_f64().unwrap() >= 0.0);
        assert!(named.contains(&&span["tid"]));
        names.push(span["name"].as_str().unwrap());
    }
    for name in ["check", "encode", "select", "scores"] {
        assert!(names.contains(&name), "{name} in {names:?}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn bad_options_are_refused_in_one_line() {
    for (options, named) in [
        (&["--heads", "0"][..], "--heads"),
        (&["--runs", "0"], "--runs"),
        (&["--tokens", "16777217"], "--tokens"),
        (&["--tokens", "128"], "--tokens"),
        (&["--kv-heads", "5"], "--kv-heads"),
        (&["--subvectors", "3"], "--subvectors"),
        (&["--bits", "9"], "--bits"),
        (&["--heavy", "4097"], "--heavy"),
        (&["--shape", "round"], "--shape"),
        (&["--weights", "--no-weights"], "--weights"),
        (&["--trace", "no/such/folder/trace"], "--trace"),
        (&["--json", "no/such/folder/json"], "--json"),
        (
            &["--tokens", "16777216", "--init-offset", "16777215"],
            "--init-offset",
        ),
        (
            &[
                "--batch", "65536", "--heads", "65536", "--tokens", "16777216",
            ],
            "--batch, --heads, --tokens",
        ),
    ] {
        let output = bench(&[options, &["--backend", "cpu"]].concat());
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{options:?}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(stderr.contains(named), "{named} in {stderr}");
        let says_what = ["expected", "possible values", "cannot be"];
        assert!(
            says_what.iter().any(|words| stderr.contains(words)),
            "{stderr}"
        );
        assert!(output.stdout.is_empty());
    }
}

/// The suite's targets are a GPU's: without one, one line and nothing else.
#[test]
fn the_suite_needs_a_gpu() {
    let refused = |output: Output| {
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(output.stdout.is_empty());
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        stderr
    };
    for backend in [&[][..], &["--backend", "cuda"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_keysieve"))
            .args(["bench", "--suite"])
            .args(backend)
            .env("KEYSIEVE_LIBCUDA", "/nonexistent/libcuda.so.1")
            .output()
            .unwrap();
        let stderr = refused(output);
        assert!(stderr.starts_with("error: --backend: "), "{stderr}");
        assert!(stderr.contains("libcuda"), "{stderr}");
    }
    let stderr = refused(bench(&["--suite", "--backend", "cpu"]));
    assert_eq!(stderr, "error: --backend: got cpu, expected cuda\n");
}

/// Its shapes are the named ones.
#[test]
fn the_suite_takes_no_shape() {
    for option in [
        &["--tokens", "700"][..],
        &["--shape", "batch-64"],
        &["--no-weights"],
    ] {
        let output = bench(&[&["--suite"], option].concat());
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains("--suite"), "{stderr}");
    }
}

/// On a simulated GPU.
fn simulated(options: &[&str]) -> Output {
    let test = std::env::current_exe().unwrap();
    let driver = test.with_file_name(libkeysieve_sim_driver());
    assert!(driver.exists(), "{} is missing", driver.display());
    Command::new(env!("CARGO_BIN_EXE_keysieve"))
        .arg("bench")
        .args(options)
        .env("KEYSIEVE_LIBCUDA", driver)
        .env("KEYSIEVE_SIM_DEVICES", "90")
        .output()
        .unwrap()
}

fn libkeysieve_sim_driver() -> String {
    use std::env::consts::{DLL_PREFIX, DLL_SUFFIX};
    format!("{DLL_PREFIX}keysieve_sim_driver{DLL_SUFFIX}")
}

#[test]
fn every_variant_is_measured() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("json");
    // Small enough that a simulated GPU makes many.
    let shape =
        "--heads 1 --kv-heads 1 --tokens 200 --head-dim 8 --bits 4 --sink 4 --window 8 --heavy 20";
    let mut options: Vec<&str> = shape.split(' ').collect();
    options.extend(["--variants", "--warmup", "0", "--runs", "1", "--json"]);
    options.push(path.to_str().unwrap());
    let output = simulated(&options);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");

    let value: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert_eq!(value["machine"]["compute_capability"], 90);
    let shapes = value["shapes"].as_array().unwrap();
    assert_eq!(shapes.len(), 1);
    let load = &shapes[0]["load"];
    assert_eq!((&load["rows"], &load["heavy"]), (&1.into(), &20.into()));
    assert_eq!(load["components"], 8 << 4);
    let variants = shapes[0]["variants"].as_array().unwrap();
    let us = |variant: &Value| variant["us"].as_f64().unwrap();
    assert!(variants.iter().all(|variant| us(variant) > 0.0));
    let least = variants.iter().map(us).fold(f64::INFINITY, f64::min);
    assert_eq!(shapes[0]["best_us"].as_f64(), Some(least));

    let text = String::from_utf8(output.stdout).unwrap();
    let chosen = text.lines().filter(|line| line.ends_with("  chosen"));
    assert_eq!(chosen.count(), 1, "{text}");
    for kernel in ["staged", "survivors", "tuples"] {
        let mut found = variants.iter().map(|variant| &variant["kernel"]);
        assert!(found.any(|found| found == kernel), "{kernel}: {variants:?}");
        assert!(text.contains(kernel), "{kernel} in {text}");
    }
}

/// Before anything is measured.
#[test]
fn a_python_without_torch_is_refused() {
    let refused = |output: Output, expected: &str| {
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(output.stdout.is_empty());
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(stderr.starts_with(expected), "{stderr}");
    };
    let of_none = ["--torch", "/nonexistent/python"];
    let expected = "error: --torch: got /nonexistent/python, expected a Python whose torch";
    refused(simulated(&[&of_none[..], &["--suite"]].concat()), expected);
    refused(simulated(&of_none), expected);
    let on_cpu = bench(&[&of_none[..], &["--backend", "cpu"]].concat());
    refused(on_cpu, "error: --backend: got cpu, expected cuda");
}

#[test]
fn variants_need_a_gpu_and_the_grid_has_its_own_shapes() {
    let refused = |options: &[&str], named: &str| {
        let output = bench(options);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{options:?}: {stderr}");
        assert!(output.stdout.is_empty());
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(stderr.contains(named), "{named} in {stderr}");
    };
    for mode in ["--variants", "--tune"] {
        refused(
            &[mode, "--backend", "cpu"],
            "--backend: got cpu, expected cuda",
        );
        refused(&[mode, "--suite"], "--suite");
        refused(&[mode, "--trace", "trace"], "--trace");
        refused(&[mode, "--torch", "python3"], "--torch");
    }
    refused(&["--tune", "--tokens", "700"], "--tokens");
}
