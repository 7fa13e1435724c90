//! Every check: a kernel with a planted bug, which it must catch under every schedule, and its
//! correct twin, which must pass under every schedule.

mod common;

use common::kernel;
use ptx_sim::{Arg, Error, Init, Launch, LaunchError, Memory, Module, Stats};
use ptx_sim::{Violation, ViolationKind, launch};

const SEEDS: u64 = 32;

/// Launches `k` with 4 KiB of zeros and 4 KiB that nothing wrote.
fn run(text: &str, grid: u32, block: u32, cluster: u32, seed: u64) -> Result<Stats, LaunchError> {
    let module = Module::parse(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let mut memory = Memory::new();
    let args = [
        Arg::U64(memory.alloc(4096, Init::Zero)),
        Arg::U64(memory.alloc(4096, Init::Uninit)),
    ];
    let launched = Launch {
        grid: [grid, 1, 1],
        block: [block, 1, 1],
        cluster,
        args: &args,
        seed,
        step_limit: 100_000,
        ..Launch::default()
    };
    launch(&module, "k", &launched, &mut memory)
}

/// Runs `body` with its `@@` replaced by the bug and by its cure. A line with `// here` is where the
/// bug must be reported; without any, everywhere will do.
fn check(
    kind: ViolationKind,
    (grid, block, cluster): (u32, u32, u32),
    body: &str,
    bug: &str,
    cure: &str,
) -> Violation {
    let text = kernel(&body.replace("@@", bug));
    let mut last = None;
    for seed in 0..SEEDS {
        match run(&text, grid, block, cluster, seed) {
            Err(LaunchError::Violation(violation)) => {
                assert_eq!(violation.kind, kind, "seed {seed}: {violation}");
                assert_eq!(violation.kernel, "k");
                let line = text.lines().nth(violation.line as usize - 1).unwrap();
                let marked = !text.contains("// here") || line.contains("// here");
                assert!(marked, "seed {seed}: {violation}: {line}");
                last = Some(*violation);
            }
            other => panic!("seed {seed}: not caught: {other:?}\n{text}"),
        }
    }
    let text = kernel(&body.replace("@@", cure));
    for seed in 0..SEEDS {
        if let Err(error) = run(&text, grid, block, cluster, seed) {
            panic!("the twin, seed {seed}: {error}\n{text}");
        }
    }
    last.unwrap()
}

const ONE: (u32, u32, u32) = (1, 1, 1);
const WARP: (u32, u32, u32) = (1, 32, 1);

#[test]
fn behind_the_end() {
    let violation = check(
        ViolationKind::OutOfBounds,
        (5, 256, 1),
        "mov.u32 %r3, %ctaid.x;
         mad.lo.u32 %r4, %r3, 256, %r0;
         setp.ge.u32 %p0, %r4, 1024;
         @@
         mul.wide.u32 %d4, %r4, 4;
         add.s64 %d4, %d4, %d0;
         st.global.u32 [%d4], %r0; // here",
        "",
        "@%p0 ret;",
    );
    assert_eq!(violation.block, [4, 0, 0]);
    assert_eq!(violation.thread[0] % 32, 0);
    assert!(violation.address.is_some());
}

#[test]
fn before_the_start_and_nowhere() {
    for offset in ["-4", "-8", "4096", "1099511627776"] {
        let body = format!("ld.global.u32 %r3, [%d0+@@]; // here\n// not {offset}");
        check(ViolationKind::OutOfBounds, ONE, &body, offset, "4092");
    }
}

#[test]
fn shared_memory_has_an_end() {
    let body = "mov.u32 %r3, smem; st.shared.u32 [%r3+@@], %r0; // here";
    check(ViolationKind::OutOfBounds, ONE, body, "1024", "1020");
    check(ViolationKind::OutOfBounds, ONE, body, "-4", "0");
}

#[test]
fn a_generic_address_outside_shared_memory() {
    let body = "mov.u64 %d4, smem; cvta.shared.u64 %d5, %d4;
                st.u32 [%d5+@@], %r0; // here";
    check(ViolationKind::OutOfBounds, ONE, body, "1024", "1020");
}

#[test]
fn outside_local_memory() {
    let body = ".local .align 4 .b8 stack[16];
                mov.u64 %d4, stack;
                st.local.u32 [%d4], %r0;
                st.local.u32 [%d4+12], %r0;
                ld.local.u32 %r3, [%d4+@@];";
    check(ViolationKind::OutOfBounds, WARP, body, "16", "12");
    check(ViolationKind::UninitialisedMemory, WARP, body, "8", "0");
}

#[test]
fn misaligned() {
    let body = "ld.global.u32 %r3, [%d0+@@]; // here";
    check(ViolationKind::Misaligned, ONE, body, "2", "8");
    let body = "ld.global.v4.u32 {%r3, %r4, %r5, %r6}, [%d0+@@]; // here";
    check(ViolationKind::Misaligned, ONE, body, "8", "16");
    let body = "mov.u32 %r3, smem; mov.u64 %d5, 0;
                st.shared.u64 [%r3+@@], %d5; // here";
    check(ViolationKind::Misaligned, ONE, body, "4", "8");
    let body = "atom.global.add.u64 %d5, [%d0+@@], 1; // here";
    check(ViolationKind::Misaligned, ONE, body, "4", "8");
}

#[test]
fn global_memory_never_written() {
    check(
        ViolationKind::UninitialisedMemory,
        WARP,
        "@@
         ld.global.u32 %r3, [%d3]; // here",
        "st.global.u16 [%d3], %r0;",
        "st.global.u32 [%d3], %r0;",
    );
    check(
        ViolationKind::UninitialisedMemory,
        WARP,
        "@@
         atom.global.add.u32 %r3, [%d3], 1; // here",
        "",
        "st.global.u32 [%d3], 0;",
    );
}

#[test]
fn shared_memory_never_written() {
    check(
        ViolationKind::UninitialisedMemory,
        WARP,
        "setp.lt.u32 %p0, %r0, 31;
         @@ st.shared.u32 [%r2], %r0;
         ld.shared.u32 %r3, [%r2]; // here",
        "@%p0",
        "",
    );
}

#[test]
fn registers_never_written() {
    let violation = check(
        ViolationKind::UninitialisedRegister,
        WARP,
        "setp.ne.u32 %p0, %r0, 17;
         @@ mov.u32 %r3, 1;
         add.s32 %r4, %r3, %r3; // here",
        "@%p0",
        "",
    );
    assert_eq!(violation.thread, [17, 0, 0]);
    check(
        ViolationKind::UninitialisedRegister,
        WARP,
        "@@
         @%p1 add.s32 %r4, %r0, %r0; // here",
        "",
        "setp.eq.u32 %p1, %r0, 1;",
    );
}

/// What a shuffle brings from a lane that takes no part is undefined.
#[test]
fn a_shuffle_from_an_absent_lane() {
    check(
        ViolationKind::UninitialisedRegister,
        WARP,
        "setp.lt.u32 %p0, %r0, 16;
         @!%p0 bra OUT;
         shfl.sync.@@.b32 %r3, %r0, 1, 31, 0xffff;
         add.s32 %r3, %r3, 1; // here
         OUT:",
        "down",
        "bfly",
    );
}

#[test]
fn a_race_in_shared_memory() {
    let between_warps = "st.shared.u32 [%r2], %r0;
         @@
         xor.b32 %r3, %r1, 128;
         mov.u32 %r4, smem;
         add.s32 %r3, %r3, %r4;
         ld.shared.u32 %r5, [%r3];";
    // The neighbour's word may not be there yet: that is a finding too, but of another kind.
    let first = format!("st.shared.u32 [%r2], 0; bar.sync 0; {between_warps}");
    check(ViolationKind::Race, (1, 64, 1), &first, "", "bar.sync 0;");
    check(
        ViolationKind::Race,
        (1, 64, 1),
        &first,
        "bar.warp.sync -1;",
        "bar.sync 1;",
    );
    let within_warp = first.replace("128", "4");
    check(
        ViolationKind::Race,
        WARP,
        &within_warp,
        "",
        "bar.warp.sync -1;",
    );
}

#[test]
fn a_race_with_the_next_round() {
    check(
        ViolationKind::Race,
        (1, 64, 1),
        "st.shared.u32 [%r2], %r0;
         bar.sync 0;
         xor.b32 %r3, %r1, 128;
         mov.u32 %r4, smem;
         add.s32 %r3, %r3, %r4;
         ld.shared.u32 %r5, [%r3];
         @@
         st.shared.u32 [%r2], %r5;",
        "",
        "bar.sync 0;",
    );
}

/// Two warps meet; a third, which reads, was not asked.
#[test]
fn a_barrier_of_some_warps_orders_only_them() {
    check(
        ViolationKind::Race,
        (1, 96, 1),
        "st.shared.u32 [%r2], 0;
         bar.sync 0;
         setp.lt.u32 %p0, %r0, 64;
         setp.lt.u32 %p1, %r0, 32;
         @%p1 st.shared.u32 [%r2], %r0;
         @%p0 bar.sync 1, 64;
         and.b32 %r3, %r1, 127;
         mov.u32 %r4, smem;
         add.s32 %r3, %r3, %r4;
         setp.@@.u32 %p2, %r0, 64;
         @%p2 ld.shared.u32 %r5, [%r3];",
        "ge",
        "lt",
    );
}

/// `bar.arrive` passes on what was written; who arrived without waiting sees nothing.
#[test]
fn a_producer_arrives_and_a_consumer_waits() {
    check(
        ViolationKind::Race,
        (1, 64, 1),
        "st.shared.u32 [%r2], 0;
         bar.sync 0;
         setp.lt.u32 %p0, %r0, 32;
         @%p0 st.shared.u32 [%r2], 7;
         @%p0 bar.arrive 1, 64;
         @!%p0 bar.@@ 1, 64;
         and.b32 %r3, %r1, 127;
         mov.u32 %r4, smem;
         add.s32 %r3, %r3, %r4;
         @!%p0 ld.shared.u32 %r5, [%r3];",
        "arrive",
        "sync",
    );
}

#[test]
fn a_race_of_bytes() {
    // Bytes of one word are no race; the same byte is.
    check(
        ViolationKind::Race,
        WARP,
        "shr.u32 %r3, %r0, @@;
         mov.u32 %r4, smem;
         add.s32 %r4, %r4, %r3;
         st.shared.u8 [%r4], %r0;",
        "1",
        "0",
    );
}

#[test]
fn a_race_between_blocks() {
    // Nothing orders blocks, whatever the schedule: not even where one ran long before the other.
    check(
        ViolationKind::Race,
        (2, 1, 1),
        "@@",
        "st.global.u32 [%d0], 1;",
        "red.global.add.u32 [%d0], 1;",
    );
    check(
        ViolationKind::Race,
        (3, 1, 1),
        "mov.u32 %r3, %ctaid.x;
         setp.eq.u32 %p0, %r3, 0;
         @%p0 st.global.u32 [%d0+@@], 1;
         @!%p0 ld.global.u32 %r4, [%d0];",
        "0",
        "4",
    );
    check(
        ViolationKind::Race,
        (2, 1, 1),
        "atom.global.add.u32 %r3, [%d0], 1;
         ld.global.u32 %r4, [%d0+@@];",
        "0",
        "4",
    );
}

#[test]
fn a_race_of_warps_in_global_memory() {
    check(
        ViolationKind::Race,
        (1, 64, 1),
        "st.global.u32 [%d2], %r0;
         @@
         xor.b32 %r3, %r1, 128;
         cvt.u64.u32 %d4, %r3;
         add.s64 %d4, %d4, %d0;
         ld.global.u32 %r5, [%d4];",
        "",
        "bar.sync 0;",
    );
}

/// Block 0 of a cluster writes to its peer's shared memory.
const REMOTE_WRITE: &str = "
    mov.u32 %r3, %cluster_ctarank;
    setp.eq.u32 %p0, %r3, 0;
    st.shared.u32 [%r2], 0;
    barrier.cluster.arrive.aligned;
    barrier.cluster.wait.aligned;
    mapa.shared::cluster.u32 %r4, %r2, 1;
    @%p0 st.shared::cluster.u32 [%r4], 5;
    @@
    @!%p0 ld.shared.u32 %r5, [%r2];
    barrier.cluster.arrive.release.aligned;
    barrier.cluster.wait.acquire.aligned;";

#[test]
fn a_race_across_a_cluster() {
    let shape = (4, 64, 2);
    let barrier = "barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;";
    check(ViolationKind::Race, shape, REMOTE_WRITE, "", barrier);
    check(
        ViolationKind::Race,
        shape,
        REMOTE_WRITE,
        "bar.sync 0;",
        barrier,
    );
    let relaxed = "barrier.cluster.arrive.relaxed.aligned; barrier.cluster.wait.aligned;";
    check(ViolationKind::Race, shape, REMOTE_WRITE, relaxed, barrier);
}

#[test]
fn a_race_between_arrive_and_wait() {
    check(
        ViolationKind::Race,
        (2, 32, 2),
        "mov.u32 %r3, %cluster_ctarank;
         setp.eq.u32 %p0, %r3, 0;
         st.shared.u32 [%r2], 0;
         barrier.cluster.arrive.aligned;
         barrier.cluster.wait.aligned;
         mapa.shared::cluster.u32 %r4, %r2, 1;
         setp.eq.u32 %p1, 0, @@;
         and.pred %p2, %p0, %p1;
         @%p2 st.shared::cluster.u32 [%r4], 5;
         barrier.cluster.arrive.aligned;
         not.pred %p1, %p1;
         and.pred %p2, %p0, %p1;
         @%p2 st.shared::cluster.u32 [%r4], 5;
         barrier.cluster.wait.aligned;
         @!%p0 ld.shared.u32 %r5, [%r2];
         barrier.cluster.arrive.aligned;
         barrier.cluster.wait.aligned;",
        "1",
        "0",
    );
}

#[test]
fn a_cluster_barrier_orders_global_memory_within_the_cluster_only() {
    let body = "
        mov.u32 %r3, %cluster_ctarank;
        setp.eq.u32 %p0, %r3, 0;
        mov.u32 %r6, %clusterid.x;
        shl.b32 %r6, %r6, @@;
        cvt.u64.u32 %d4, %r6;
        add.s64 %d4, %d4, %d0;
        @%p0 st.global.u32 [%d4], 3;
        barrier.cluster.arrive.aligned;
        barrier.cluster.wait.aligned;
        @!%p0 ld.global.u32 %r5, [%d4];";
    // Shifted by 30 bits two clusters have different words; by 32 the same one.
    check(ViolationKind::Race, (4, 1, 2), body, "32", "2");
}

#[test]
fn a_block_leaves_while_a_peer_reads_its_shared_memory() {
    check(
        ViolationKind::PeerExited,
        (4, 64, 2),
        "mov.u32 %r3, %cluster_ctarank;
         xor.b32 %r3, %r3, 1;
         st.shared.u32 [%r2], %r0;
         barrier.cluster.arrive.aligned;
         barrier.cluster.wait.aligned;
         mapa.shared::cluster.u32 %r4, %r2, %r3;
         ld.shared::cluster.u32 %r5, [%r4]; // here
         @@",
        "",
        "barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;",
    );
}

#[test]
fn a_barrier_in_a_branch() {
    check(
        ViolationKind::DivergentCollective,
        (1, 64, 1),
        "setp.lt.u32 %p0, %r0, @@;
         @%p0 bra OUT;
         bar.sync 0; // here
         OUT:
         bar.sync 0; // here",
        "40",
        "32",
    );
}

/// `if t < n {a} sync; if t < n {b}` with the barrier duplicated into both arms, as MIR's jump
/// threading does.
#[test]
fn jump_threading_duplicates_a_barrier() {
    let threaded = "
         setp.lt.u32 %p0, %r0, @@;
         @%p0 bra THEN;
         bar.sync 0; // here
         bra.uni JOIN;
         THEN:
         st.shared.u32 [%r2], %r0;
         bar.sync 0; // here
         ld.shared.u32 %r3, [%r2];
         JOIN:";
    check(
        ViolationKind::DivergentCollective,
        (1, 64, 1),
        threaded,
        "20",
        "64",
    );
    // The code that was meant.
    let meant = "
         setp.lt.u32 %p0, %r0, 20;
         @!%p0 bra SYNC;
         st.shared.u32 [%r2], %r0;
         SYNC: bar.sync 0;
         @!%p0 bra JOIN;
         ld.shared.u32 %r3, [%r2];
         JOIN:";
    for seed in 0..SEEDS {
        run(&kernel(meant), 2, 64, 1, seed).unwrap();
    }
}

#[test]
fn a_shuffle_in_a_branch() {
    for collective in [
        "shfl.sync.idx.b32 %r3, %r0, 0, 31, -1; // here",
        "vote.sync.ballot.b32 %r3, %p0, -1; // here",
        "match.any.sync.b32 %r3, %r0, -1; // here",
        "redux.sync.add.u32 %r3, %r0, -1; // here",
        "bar.warp.sync -1; // here",
    ] {
        let body = format!(
            "setp.lt.u32 %p0, %r0, @@;
             @!%p0 bra OUT;
             {collective}
             OUT: bar.sync 0; // here"
        );
        check(ViolationKind::DivergentCollective, WARP, &body, "31", "32");
    }
}

#[test]
fn a_lane_outside_its_own_mask() {
    let body = "shfl.sync.idx.b32 %r3, %r0, 0, 31, @@; // here";
    check(
        ViolationKind::DivergentCollective,
        WARP,
        body,
        "0xffff",
        "-1",
    );
}

/// Each half of a warp has its own mask, in its own branch: allowed.
#[test]
fn halves_of_a_warp() {
    let body = "setp.lt.u32 %p0, %r0, 16;
         @%p0 bra LOW;
         redux.sync.add.u32 %r3, %r0, 0xffff0000;
         bra.uni OUT;
         LOW: redux.sync.add.u32 %r3, %r0, 0x0000ffff;
         OUT: st.global.u32 [%d2], %r3;
         bar.sync 0;";
    run(&kernel(body), 1, 32, 1, 0).unwrap();
}

/// Lanes that returned early are not waited for, nor are they in the way of those who go on.
#[test]
fn early_returns() {
    let body = "
         setp.lt.u32 %p0, %r0, 8;
         @%p0 bra A;
         bra.uni B;
         A: setp.lt.u32 %p1, %r0, 4;
         @%p1 ret;
         B: bar.sync 0;
         shfl.sync.bfly.b32 %r3, %r0, 8, 31, -1;
         bar.sync 0;";
    for seed in 0..SEEDS {
        run(&kernel(body), 1, 48, 1, seed).unwrap();
    }
}

#[test]
fn a_deadlock() {
    let violation = check(
        ViolationKind::Deadlock,
        (1, 64, 1),
        "setp.lt.u32 %p0, %r0, 32;
         @%p0 bar.sync 1, 64; // here
         @!%p0 bar.sync @@, 64; // here",
        "2",
        "1",
    );
    assert!(violation.detail.contains("warp 1"), "{violation}");
    // Each warp waits where the other has not been yet: one in the block, one in the cluster.
    check(
        ViolationKind::Deadlock,
        (2, 64, 2),
        "setp.lt.u32 %p0, %r0, 32;
         @%p0 bar.sync 1, 64;
         @@",
        "barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned; @!%p0 bar.sync 1, 64;",
        "@!%p0 bar.sync 1, 64; barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;",
    );
}

#[test]
fn an_endless_loop() {
    check(
        ViolationKind::StepLimit,
        (1, 64, 1),
        "mov.u32 %r3, 0;
         LOOP: add.s32 %r3, %r3, @@; // here
         setp.lt.u32 %p0, %r3, 100; // here
         @%p0 bra LOOP; // here",
        "0",
        "1",
    );
}

#[test]
fn barriers_used_against_their_rules() {
    let kind = ViolationKind::BarrierMisuse;
    check(
        kind,
        (1, 32, 1),
        "mov.u32 %r3, @@; bar.sync %r3; // here",
        "16",
        "15",
    );
    check(
        kind,
        WARP,
        "@@ bar.sync %r3; // here",
        "mov.u32 %r3, %tid.x;",
        "mov.u32 %r3, %ctaid.x;",
    );
    check(kind, WARP, "bar.sync 1, @@; // here", "33", "32");
    check(
        kind,
        (2, 32, 2),
        "barrier.cluster.arrive.aligned;
         @@
         barrier.cluster.arrive.aligned; // here
         barrier.cluster.wait.aligned;",
        "",
        "barrier.cluster.wait.aligned;",
    );
    check(
        kind,
        (2, 32, 2),
        "@@
         barrier.cluster.wait.aligned; // here",
        "",
        "barrier.cluster.arrive.aligned;",
    );
}

#[test]
fn traps_and_divisions() {
    let body = "setp.eq.u32 %p0, %r0, @@; @%p0 trap; // here";
    assert_eq!(
        check(ViolationKind::Trap, WARP, body, "9", "32").thread,
        [9, 0, 0]
    );
    let body = "add.u32 %r3, %r0, @@; div.u32 %r4, %r0, %r3; // here";
    check(ViolationKind::DivisionByZero, WARP, body, "-7", "1");
}

#[test]
fn an_unknown_opcode_is_named_with_its_line() {
    for opcode in [
        "frobnicate.u32",
        "add.rz.f32",
        "ex2.approx.f32",
        "cp.async.ca.shared.global",
        "min.u32.foo",
        "mul.wide.u64",
        "barrier.sync",
    ] {
        let text = kernel(&format!("mov.u32 %r3, 1;\n{opcode} %r3, %r3, %r3;"));
        let line = text.lines().position(|l| l.starts_with(opcode)).unwrap() as u32 + 1;
        let opcode = opcode.to_owned();
        match Module::parse(&text) {
            Err(error) => assert_eq!(error, Error::UnknownOpcode { line, opcode }),
            Ok(_) => panic!("{opcode} was taken"),
        }
    }
}

#[test]
fn text_that_is_no_ptx() {
    for text in [
        "hello",
        ".visible .entry k(",
        "/* no end",
        "\"",
        "\u{e9}",
        "0f12",
    ] {
        assert!(
            matches!(Module::parse(text), Err(Error::Syntax { .. })),
            "{text}"
        );
    }
    let body = "add.u32 %r3, %nothing, 1;";
    assert!(matches!(
        Module::parse(&kernel(body)),
        Err(Error::Syntax { .. })
    ));
    let body = "bra NOWHERE;";
    assert!(matches!(
        Module::parse(&kernel(body)),
        Err(Error::Syntax { .. })
    ));
}

#[test]
fn launches_that_do_not_fit() {
    let module = Module::parse(&kernel("")).unwrap();
    let mut memory = Memory::new();
    let args = [Arg::U64(memory.alloc(4, Init::Zero)); 2];
    let good = Launch {
        args: &args,
        ..Launch::default()
    };
    launch(&module, "k", &good, &mut memory).unwrap();
    let wrong = [
        Launch {
            args: &args[..1],
            ..good
        },
        Launch {
            args: &[Arg::U32(0), Arg::U32(0)],
            ..good
        },
        Launch {
            block: [1025, 1, 1],
            ..good
        },
        Launch {
            block: [0, 1, 1],
            ..good
        },
        Launch {
            grid: [1, 0, 1],
            ..good
        },
        Launch {
            grid: [u32::MAX, 65_535, 65_535],
            ..good
        },
        Launch { cluster: 2, ..good },
        Launch { cluster: 0, ..good },
        Launch {
            shared_bytes: 227 * 1024,
            ..good
        },
    ];
    for wrong in wrong {
        let result = launch(&module, "k", &wrong, &mut memory);
        assert!(
            matches!(result, Err(LaunchError::BadLaunch { .. })),
            "{wrong:?}"
        );
    }
    let result = launch(&module, "other", &good, &mut memory);
    assert_eq!(result, Err(LaunchError::NoKernel("other".to_owned())));
}

/// One seed, one schedule; many seeds, many.
#[test]
fn schedules_come_from_the_seed() {
    let text = kernel(
        "mov.u32 %r3, %ctaid.x;
         shl.b32 %r4, %r3, 5;
         setp.eq.u32 %p0, %r0, 0;
         @!%p0 ret;
         atom.global.add.u32 %r5, [%d0], 1;
         add.u32 %r3, %r3, 1;
         mul.wide.u32 %d5, %r3, 4;
         add.s64 %d5, %d5, %d0;
         st.global.u32 [%d5], %r5;",
    );
    let module = Module::parse(&text).unwrap();
    let tickets = |seed| {
        let mut memory = Memory::new();
        let data = memory.alloc(4096, Init::Zero);
        let args = [Arg::U64(data); 2];
        let launched = Launch {
            grid: [8, 1, 1],
            block: [32, 1, 1],
            args: &args,
            seed,
            ..Launch::default()
        };
        launch(&module, "k", &launched, &mut memory).unwrap();
        memory.bytes(data).unwrap()[..36].to_vec()
    };
    let all: Vec<_> = (0..16).map(tickets).collect();
    assert_eq!(all, (0..16).map(tickets).collect::<Vec<_>>());
    let distinct: std::collections::HashSet<_> = all.iter().collect();
    assert!(distinct.len() > 8);
}
