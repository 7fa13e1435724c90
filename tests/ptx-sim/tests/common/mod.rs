//! Small kernels for tests.

/// A kernel `k(data, fresh)` with that body, behind declarations and these values:
/// `%r0` the thread, `%r1` four times that, `%r2` its word of `smem` (1 KiB), `%d0` and `%d1` the two
/// arguments, `%d2` and `%d3` the thread's word in them.
pub(crate) fn kernel(body: &str) -> String {
    format!(
        "{PROLOGUE}
{body}
    ret;
}}
"
    )
}

const PROLOGUE: &str = ".version 8.0
.target sm_90
.address_size 64
.visible .entry k(.param .u64 data, .param .u64 fresh) {
    .reg .pred %p<8>;
    .reg .b16 %h<8>;
    .reg .b32 %r<40>;
    .reg .b64 %d<40>;
    .shared .align 16 .b8 smem[1024];
    ld.param.u64 %d0, [data];
    ld.param.u64 %d1, [fresh];
    mov.u32 %r0, %tid.x;
    shl.b32 %r1, %r0, 2;
    mov.u32 %r2, smem;
    add.s32 %r2, %r2, %r1;
    cvt.u64.u32 %d2, %r1;
    add.s64 %d3, %d1, %d2;
    add.s64 %d2, %d0, %d2;";
