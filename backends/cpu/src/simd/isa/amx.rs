//! AMX: tiles of 16 rows of 64 bytes. The compiler has no intrinsics for them that are stable, so they are written out.
//!
//! Tiles 0 to 3 are sums (first rows with both pieces of weights, second rows with both), 4 and 5 rows, 6 and 7 weights.
//! Where there are no second rows, their tiles have one row, whose sums nobody reads.

use std::arch::asm;
use std::arch::x86_64::__cpuid_count;

/// Bytes of a row of sums, and of weights.
const ROW_BYTES: usize = 64;
/// Rows of a tile.
const ROWS: usize = 16;

/// What `ldtilecfg` reads (Intel SDM, volume 1, 18.2).
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// Whether the processor has the tiles of bytes and bfloat16, and whether the system lets this process use them.
pub(super) fn available() -> (bool, bool) {
    // CPUID leaf 7: AMX-BF16, AMX-TILE, AMX-INT8.
    let bits = 1 << 22 | 1 << 24 | 1 << 25;
    let has = is_x86_feature_detected!("avx512f") && __cpuid_count(7, 0).edx & bits == bits;
    (has, has && allowed())
}

/// Asks once: it holds for all threads of the process.
#[cfg(target_os = "linux")]
fn allowed() -> bool {
    use std::sync::OnceLock;
    /// Of `arch_prctl`: asks for a state that is not given by default, and the one of tile data.
    const REQUEST: libc::c_ulong = 0x1023;
    const TILE_DATA: libc::c_ulong = 18;
    static ALLOWED: OnceLock<bool> = OnceLock::new();
    // SAFETY: the call takes two numbers and touches no memory of ours.
    *ALLOWED.get_or_init(|| unsafe { libc::syscall(libc::SYS_arch_prctl, REQUEST, TILE_DATA) } == 0)
}

/// Nobody has tried elsewhere.
#[cfg(not(target_os = "linux"))]
fn allowed() -> bool {
    false
}

#[inline(always)]
pub(super) unsafe fn begin(rows: [usize; 2], bytes: usize) {
    let mut c = Configuration { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
    let second = rows[1].max(1);
    let tiles = [rows[0], rows[0], second, second, rows[0], second, bytes / 4, bytes / 4];
    for (tile, rows) in tiles.into_iter().enumerate() {
        c.rows[tile] = rows as u8;
        c.row_bytes[tile] = if tile == 4 || tile == 5 { bytes } else { ROW_BYTES } as u16;
    }
    asm!("ldtilecfg [{}]", in(reg) &raw const c, options(nostack, preserves_flags));
}

#[inline(always)]
pub(super) unsafe fn clear() {
    asm!("tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3", options(nostack, preserves_flags, nomem));
}

macro_rules! products {
    ($product:literal, $x:expr, $stride:expr, $weights:expr) => {
        asm!(
            "tileloadd tmm4, [{x0} + {stride}*1]",
            "tileloadd tmm6, [{w0} + {row}*1]",
            concat!($product, " tmm0, tmm4, tmm6"),
            "tileloadd tmm7, [{w1} + {row}*1]",
            concat!($product, " tmm1, tmm4, tmm7"),
            "tileloadd tmm5, [{x1} + {stride}*1]",
            concat!($product, " tmm2, tmm5, tmm6"),
            concat!($product, " tmm3, tmm5, tmm7"),
            x0 = in(reg) $x[0],
            x1 = in(reg) $x[1],
            w0 = in(reg) $weights[0],
            w1 = in(reg) $weights[1],
            stride = in(reg) $stride,
            row = in(reg) ROW_BYTES,
            options(nostack, preserves_flags, readonly)
        )
    };
}

#[inline(always)]
pub(super) unsafe fn add<const BF16: bool>(x: [*const u8; 2], stride: usize, weights: [*const u8; 2]) {
    if BF16 {
        products!("tdpbf16ps", x, stride, weights);
    } else {
        products!("tdpbsud", x, stride, weights);
    }
}

#[inline(always)]
pub(super) unsafe fn store(to: *mut u8) {
    asm!(
        "tilestored [{to} + {row}*1], tmm0",
        "tilestored [{to} + {row}*1 + 1024], tmm1",
        "tilestored [{to} + {row}*1 + 2048], tmm2",
        "tilestored [{to} + {row}*1 + 3072], tmm3",
        to = in(reg) to,
        row = in(reg) ROW_BYTES,
        options(nostack, preserves_flags)
    );
    const { assert!(ROWS * ROW_BYTES == 1024, "a tile of sums is 1 KiB") };
}

#[inline(always)]
pub(super) unsafe fn end() {
    asm!("tilerelease", options(nostack, preserves_flags, nomem));
}
