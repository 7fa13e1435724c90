//! Every bad input gets one line on stderr and exit status 2, and nothing is written.

use std::ffi::{OsStr, OsString};
use std::fs;

use safetensors::tensor::Dtype;

use crate::desk::{Bytes, Desk, f32s, file, kv, number, of_dtype, sample};

#[test]
fn options_out_of_range_are_refused() {
    let desk = Desk::with_index();
    for (option, value) in [
        ("--bits", "0"),
        ("--bits", "9"),
        ("--bits", "x"),
        ("--subvectors", "0"),
        ("--subvectors", "65"),
        ("--subvectors", "5"),
        ("--iterations", "99999999999999999999"),
        ("--seed", "-1"),
        ("--metric", "cosine"),
        ("--init-offset", "4096"),
        ("--init-offset", "18446744073709551615"),
    ] {
        for command in ["train --kv kv --out other", "eval --kv kv", "demo"] {
            desk.refused_saying(
                &format!("{command} {option}={value}"),
                &format!("{option} .. {value}"),
            );
        }
    }
    for (option, value) in [
        ("--sink", "9223372036854775808"),
        ("--window", "16777217"),
        ("--heavy", "4097"),
        ("--heavy", "-1"),
        ("--backend", "tpu"),
    ] {
        for command in [
            "select --index index --kv kv --out sel",
            "eval --kv kv",
            "demo",
        ] {
            desk.refused_saying(
                &format!("{command} {option}={value}"),
                &format!("{option} .. {value}"),
            );
        }
    }
    desk.refused_saying("train --kv kv", "--out");
    desk.refused_saying("train --kv kv --out other --sink 3", "--sink");
    desk.refused_saying("sieve", "sieve");
}

#[test]
fn instruction_sets_that_are_not_there_are_refused() {
    let desk = Desk::with_index();
    // No processor has both AVX2 and NEON.
    let elsewhere = if cfg!(target_arch = "aarch64") {
        "avx2"
    } else {
        "neon"
    };
    for (value, expected) in [
        ("sse9", "one of portable, avx2, avx512, neon"),
        ("", "one of portable"),
        (elsewhere, "one that this processor has: portable"),
    ] {
        for command in [
            "train --kv kv --out other",
            "select --index index --kv kv --out sel --backend cpu",
            "eval --kv kv --backend cpu",
        ] {
            let before = desk.files();
            let output = desk
                .command(command)
                .env("KEYSIEVE_SIMD", value)
                .output()
                .unwrap();
            let stderr = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(2), "{command}: {stderr}");
            assert_eq!(stderr.lines().count(), 1, "{command}: {stderr}");
            let said = format!("KEYSIEVE_SIMD: got {value}, expected {expected}");
            assert!(stderr.contains(&said), "{command}: {stderr}");
            assert_eq!(desk.files(), before, "{command} changed files");
        }
    }
}

#[test]
fn files_that_cannot_be_read_or_written_are_refused() {
    let desk = Desk::with_index();
    let whole = fs::read(desk.path("kv")).unwrap();
    desk.write("empty", "");
    desk.write("text", "keys and queries");
    desk.write("truncated", &whole[..whole.len() - 1]);
    desk.write("header", &whole[..100]);
    fs::create_dir(desk.path("folder")).unwrap();
    for name in ["missing", "empty", "text", "truncated", "header", "folder"] {
        desk.refused_saying(
            &format!("train --kv {name} --out other"),
            &format!("--kv .. {name}"),
        );
        desk.refused_saying(&format!("eval --kv {name}"), &format!("--kv .. {name}"));
        desk.refused_saying(
            &format!("select --index {name} --kv kv --out sel"),
            &format!("--index .. {name}"),
        );
    }
    for out in ["folder", "missing/out", "kv/out", "/"] {
        desk.refused_saying(
            &format!("train --kv kv --out {out}"),
            &format!("--out .. {out}"),
        );
        desk.refused_saying(
            &format!("select --index index --kv kv --out {out}"),
            &format!("--out .. {out}"),
        );
        desk.refused_saying(
            &format!("eval --kv kv --json {out}"),
            &format!("--json .. {out}"),
        );
    }
}

#[cfg(target_os = "linux")]
#[test]
fn odd_names_and_devices_are_no_trouble() {
    use std::os::unix::ffi::OsStringExt;

    let desk = Desk::new();
    fs::copy(sample(), desk.path("kv")).unwrap();
    let name = OsString::from_vec(b"\xff\n\x1b[31m".to_vec());
    let args = |command: &[&str], name: &OsStr| -> Vec<OsString> {
        let words = command.iter().map(OsString::from);
        words.chain([name.to_owned()]).collect()
    };
    let line = desk.refused_os(&args(&["eval", "--kv"], &name));
    assert!(line.contains("--kv"), "{line}");
    desk.refused_os(&args(&["--bits"], &name));
    desk.refused_os(&args(&["eval", "--kv", "kv", "--bits"], &name));
    let output = desk.run(args(&["train", "--kv", "kv", "--out"], &name));
    assert!(output.status.success(), "{output:?}");
    assert!(desk.folder.path().join(&name).is_file());
    for device in ["/dev/zero", "/dev/null"] {
        desk.refused_saying(&format!("eval --kv {device}"), &format!("--kv .. {device}"));
        desk.refused_saying(
            &format!("train --kv kv --out {device}"),
            &format!("--out .. {device}"),
        );
    }
}

#[test]
fn keys_and_queries_that_do_not_fit_are_refused() {
    let desk = Desk::new();
    let one = |name: &'static str, tensor: Bytes| {
        let other = match name {
            "keys" => ("queries", f32s(&[2, 1, 8], number)),
            _ => ("keys", f32s(&[2, 200, 8], number)),
        };
        file(&[(name, tensor), other], &[])
    };
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (file(&[("keys", f32s(&[2, 9, 8], number))], &[]), "queries"),
        (
            one("keys", of_dtype(Dtype::I32, &[2, 200, 8])),
            "keys .. I32 .. F16, BF16 or F32",
        ),
        (
            one("keys", of_dtype(Dtype::F64, &[2, 200, 8])),
            "keys .. F64",
        ),
        (
            one("queries", of_dtype(Dtype::U8, &[2, 1, 8])),
            "queries .. U8",
        ),
        (
            one("keys", f32s(&[200, 8], number)),
            "keys .. [200, 8] .. head_dim",
        ),
        (
            one("keys", f32s(&[1, 1, 2, 200, 8], number)),
            "keys .. [1, 1, 2, 200, 8]",
        ),
        (one("keys", f32s(&[2, 0, 8], number)), "keys .. [2, 0, 8]"),
        (
            one("queries", f32s(&[2, 0, 8], number)),
            "queries .. [2, 0, 8]",
        ),
        (
            one("queries", f32s(&[3, 1, 8], number)),
            "queries .. 3 heads .. multiple",
        ),
        (
            one("queries", f32s(&[2, 1, 4], number)),
            "queries .. head_dim 4 .. 8",
        ),
        (
            one("queries", f32s(&[2, 2, 1, 8], number)),
            "queries .. batch 2 .. 1",
        ),
        (kv(&[1, 200, 257], &[1, 1, 257]), "keys .. 257 .. 256"),
        (kv(&[1, 128, 8], &[1, 1, 8]), "--init-offset .. 128"),
        (kv(&[1, 200, 7], &[1, 1, 7]), "--subvectors .. 7"),
    ];
    for (bytes, parts) in cases {
        desk.write("kv", bytes);
        desk.refused_saying("train --kv kv --out other", parts);
        desk.refused_saying("eval --kv kv", parts);
    }
}

#[test]
fn indexes_of_other_programs_are_checked() {
    let desk = Desk::new();
    desk.write("kv", kv(&[2, 60, 8], &[4, 2, 8]));
    let select = "select --index index --kv kv --out sel --backend cpu";
    let metadata = |m, bits, init_offset, metric| {
        [
            ("num_subvectors", m),
            ("bits", bits),
            ("init_offset", init_offset),
            ("metric", metric),
        ]
    };
    let good = metadata("2", "3", "10", "l2");
    let centroids = || f32s(&[1, 2, 2, 8, 4], number);
    let codes = |shape: &[usize], code: u8| Bytes {
        dtype: Dtype::U8,
        shape: shape.to_vec(),
        data: vec![code; shape.iter().product()],
    };
    let index = |metadata: &[(&str, &str)], centroids: Bytes, codes: Bytes| {
        file(&[("centroids", centroids), ("codes", codes)], metadata)
    };

    let fitting = || codes(&[1, 2, 50, 2], 7);
    desk.write("index", index(&good, centroids(), fitting()));
    desk.ok(select);
    // No codes at all: every key behind init_offset is appended.
    desk.write("index", index(&good, centroids(), codes(&[1, 2, 0, 2], 0)));
    desk.ok(select);
    fs::remove_file(desk.path("sel")).unwrap();

    let nan = f32s(&[1, 2, 2, 8, 4], |i| if i == 100 { f32::NAN } else { 0.0 });
    let huge = "18446744073709551615";
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (
            index(&good, centroids(), codes(&[1, 2, 50, 2], 8)),
            "codes .. 8 at .. 2^bits = 8",
        ),
        (
            index(&good, centroids(), codes(&[1, 2, 51, 2], 0)),
            "codes .. 51 .. 60 keys",
        ),
        (
            index(&good, centroids(), codes(&[1, 3, 50, 2], 0)),
            "codes .. [1, 3, 50, 2]",
        ),
        (
            index(&good, centroids(), codes(&[2, 50, 2], 0)),
            "codes .. [2, 50, 2]",
        ),
        (
            index(&good, centroids(), of_dtype(Dtype::I8, &[1, 2, 50, 2])),
            "codes .. I8 .. U8",
        ),
        (
            index(&good, of_dtype(Dtype::F64, &[1, 2, 2, 8, 4]), fitting()),
            "centroids .. F64",
        ),
        (
            index(&good, f32s(&[1, 2, 2, 4, 4], number), fitting()),
            "centroids .. [1, 2, 2, 4, 4]",
        ),
        (
            index(&good, f32s(&[2, 2, 8, 4], number), fitting()),
            "centroids .. [2, 2, 8, 4]",
        ),
        (index(&good, nan, fitting()), "centroids .. NaN .. head 1"),
        (index(&good[..3], centroids(), fitting()), "metadata metric"),
        (
            index(&metadata("2", "9", "10", "l2"), centroids(), fitting()),
            "bits .. 9",
        ),
        (
            index(&metadata("2", huge, "10", "l2"), centroids(), fitting()),
            "bits",
        ),
        (
            index(&metadata("two", "3", "10", "l2"), centroids(), fitting()),
            "num_subvectors .. two",
        ),
        (
            index(&metadata("0", "3", "10", "l2"), centroids(), fitting()),
            "num_subvectors .. 0",
        ),
        (
            index(&metadata("4", "3", "10", "l2"), centroids(), fitting()),
            "centroids .. 4",
        ),
        (
            index(&metadata("2", "3", huge, "l2"), centroids(), fitting()),
            "init_offset .. 18446744073709551615",
        ),
        (
            index(&metadata("2", "3", "11", "l2"), centroids(), fitting()),
            "codes .. 60 keys",
        ),
        (
            index(&metadata("2", "3", "10", "cos"), centroids(), fitting()),
            "metric .. cos .. l2 or ip",
        ),
        (kv(&[2, 60, 8], &[4, 2, 8]), "metadata num_subvectors"),
    ];
    for (bytes, parts) in cases {
        desk.write("index", bytes);
        let line = desk.refused(select);
        assert!(line.contains("--index"), "{line}");
        desk.refused_saying(select, parts);
    }

    desk.write("index", index(&good, centroids(), fitting()));
    for (keys, queries, part) in [
        (vec![1, 60, 8], vec![4, 2, 8], "num_kv_heads"),
        (vec![2, 60, 4], vec![4, 2, 4], "head_dim"),
        (vec![3, 2, 60, 8], vec![3, 4, 2, 8], "batch"),
    ] {
        desk.write("kv", kv(&keys, &queries));
        desk.refused_saying(select, &format!("--kv: keys .. {part}"));
    }
}
