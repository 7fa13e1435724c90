//! The command: what it prints and how it exits.

mod common;

use std::process::Command;

use common::kernel;

/// Runs the kernel with that body; the exit status, standard output and standard error.
fn run(body: &str, options: &[&str]) -> (i32, String, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("k.ptx");
    std::fs::write(&file, kernel(body)).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_ptx-sim"))
        .arg("run")
        .arg(&file)
        .args(options)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let code = output.status.code().unwrap();
    (code, text(output.stdout), text(output.stderr))
}

const GOOD: [&str; 10] = [
    "--kernel",
    "k",
    "--grid",
    "2",
    "--block",
    "64,1,1",
    "--arg",
    "buf:4096:zero",
    "--arg",
    "buf:4096:uninit",
];

fn with<'a>(options: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    [options, more].concat()
}

#[test]
fn a_clean_kernel() {
    let (code, out, _) = run("red.global.add.u32 [%d0], 1;", &GOOD);
    assert_eq!((code, out.as_str()), (0, "clean: 1408 lane-instructions\n"));
    let options = with(&GOOD, &["--schedules", "10", "--seed", "5"]);
    let (code, out, _) = run("red.global.add.u32 [%d0], 1;", &options);
    assert_eq!(
        (code, out.as_str()),
        (0, "clean: 14080 lane-instructions\n")
    );
}

#[test]
fn a_violation() {
    let (code, out, _) = run("st.global.u32 [%d2+4000], %r0;", &GOOD);
    assert_eq!(code, 1);
    for part in [
        "access outside an allocation",
        "kernel k",
        "line 19",
        "block (",
        "thread (",
        "address 0x",
        "--seed 0",
    ] {
        assert!(out.contains(part), "{part}: {out}");
    }
    let (code, out, _) = run("ld.global.u32 %r3, [%d3];", &GOOD);
    assert_eq!(code, 1);
    assert!(out.contains("never written"), "{out}");
}

#[test]
fn clusters_and_shared_memory() {
    let body = ".shared .align 4 .b8 more[4];
        barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;
        mov.u32 %r3, %dynamic_smem_size; setp.ne.u32 %p0, %r3, 512; @%p0 trap;
        mov.u32 %r3, %cluster_nctarank; setp.ne.u32 %p0, %r3, 2; @%p0 trap;";
    let options = with(&GOOD, &["--cluster", "2", "--shared", "512"]);
    let (code, out, error) = run(body, &options);
    assert_eq!(code, 0, "{out}{error}");
}

#[test]
fn arguments_of_every_kind() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("k.ptx");
    let text = ".version 8.0 .target sm_90 .address_size 64
        .visible .entry k(.param .u32 a, .param .f32 b, .param .u64 c, .param .u64 d) {
            .reg .pred %p<4>; .reg .b32 %r<4>; .reg .b64 %d<4>;
            ld.param.u32 %r0, [a]; setp.ne.u32 %p0, %r0, 7; @%p0 trap;
            ld.param.f32 %r1, [b]; setp.neu.f32 %p0, %r1, 0f3fc00000; @%p0 trap;
            ld.param.u64 %d0, [c]; setp.ne.u64 %p0, %d0, 9; @%p0 trap;
            ld.param.u64 %d0, [d]; ld.global.u8 %r2, [%d0+5];
            setp.ne.u32 %p0, %r2, 5; @%p0 trap;
            ret;
        }";
    std::fs::write(&file, text).unwrap();
    let status = Command::new(env!("CARGO_BIN_EXE_ptx-sim"))
        .arg("run")
        .arg(&file)
        .args(["--kernel", "k", "--grid", "1", "--block", "1"])
        .args(["--arg", "u32:7", "--arg", "f32:1.5", "--arg", "u64:9"])
        .args(["--arg", "buf:8:iota"])
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(0));
}

#[test]
fn bad_usage() {
    let nothing = "";
    for options in [
        &GOOD[..8],
        &GOOD[2..],
        &with(&GOOD, &["--arg", "u32:1"])[..],
        &with(&GOOD[..8], &["--arg", "buf:10:full"]),
        &with(&GOOD[..8], &["--arg", "u33:1"]),
        &with(&GOOD[..8], &["--arg", "u32:-1"]),
        &with(&GOOD, &["--cluster", "3"]),
        &with(&GOOD, &["--frobnicate"]),
        // Nothing would run, and that would be clean.
        &with(&GOOD, &["--schedules", "0"]),
        &with(&GOOD[..8], &["--arg", "buf:18446744073709551615:zero"]),
        &["--kernel", "other", "--grid", "1", "--block", "1"],
        &["--kernel", "k", "--grid", "1,2,3,4", "--block", "1"],
        &with(
            &["--kernel", "k", "--grid", "4294967295,65535,65535"],
            &GOOD[4..],
        ),
    ] {
        let (code, out, error) = run(nothing, options);
        assert_eq!(code, 2, "{options:?}: {out}{error}");
        assert!(out.is_empty() && !error.is_empty(), "{options:?}");
    }
    let (code, _, error) = run("cp.async.wait_all;", &GOOD);
    assert_eq!(code, 2);
    assert!(
        error.contains("line 19: unknown opcode `cp.async.wait_all`"),
        "{error}"
    );
}
