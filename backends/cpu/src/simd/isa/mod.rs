//! Vectors of 16 floats on each instruction set, and the way into code compiled for one.
//!
//! Arithmetic is f32; results may differ between instruction sets (whether `fma` rounds once), never within one.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;

/// Floats of a vector.
pub(crate) const LANES: usize = 16;

/// A computation that is compiled once per instruction set. Everything that `run` calls must be inlined into it.
pub(crate) trait Task {
    /// The result.
    type Out;
    /// Whether it makes or reads rounded rows, which some extensions are for: no other task is compiled for these.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "no other processor has such extensions here"))]
    const ROUNDED: bool = false;

    /// Runs it.
    ///
    /// # Safety
    /// The machine has `I`, and the pointers that the task holds are valid for what it does.
    unsafe fn run<I: Isa>(self) -> Self::Out;
}

/// An instruction set. Every function is unsafe for one reason: the machine must have it. Pointers are unaligned.
pub(crate) trait Isa: Copy + 'static {
    /// 16 floats.
    type F: Copy;
    /// What decodes the 4-bit codes of one group.
    type Four: Copy;
    /// Rows and columns of a tile of a matrix product that fit its registers.
    const TILE: (usize, usize);
    /// Whether there are registers for 16 vectors and more.
    const WIDE: bool = false;

    /// Runs a task with this instruction set enabled.
    unsafe fn enter<T: Task>(task: T) -> T::Out;

    /// The same number 16 times.
    unsafe fn splat(x: f32) -> Self::F;
    /// The same two numbers 8 times.
    #[inline(always)]
    unsafe fn splat_pair(from: *const f32) -> Self::F {
        let (a, b) = (*from, *from.add(1));
        Self::load([a, b, a, b, a, b, a, b, a, b, a, b, a, b, a, b].as_ptr())
    }
    /// The sums of neighbours: 8 floats to memory.
    #[inline(always)]
    unsafe fn store_pair_sums(to: *mut f32, x: Self::F) {
        let mut lanes = [0f32; LANES];
        Self::store(lanes.as_mut_ptr(), x);
        for i in 0..LANES / 2 {
            *to.add(i) = lanes[2 * i] + lanes[2 * i + 1];
        }
    }
    /// 16 floats from memory.
    unsafe fn load(from: *const f32) -> Self::F;
    /// 16 floats to memory.
    unsafe fn store(to: *mut f32, x: Self::F);
    /// `a + b`.
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F;
    /// `a - b`.
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F;
    /// `a · b`.
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F;
    /// `a / b`.
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F;
    /// The smaller; `b` if either is no number.
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F;
    /// The larger; `b` if either is no number.
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F;
    /// `a · b + c`.
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `x · 2ⁿ` where `n` is the integer that was added to 1.5 · 2²³ to give `shifted`; the result must be normal.
    unsafe fn scale_by_power(x: Self::F, shifted: Self::F) -> Self::F;
    /// Sum by halving: lane `i` adds lane `i + 8`, then `i + 4`, `i + 2`, `i + 1`.
    unsafe fn sum(x: Self::F) -> f32;
    /// Four sums, each as [`Self::sum`].
    #[inline(always)]
    unsafe fn sum4(x: [Self::F; 4]) -> [f32; 4] {
        [Self::sum(x[0]), Self::sum(x[1]), Self::sum(x[2]), Self::sum(x[3])]
    }
    /// Largest lane.
    unsafe fn largest(x: Self::F) -> f32;

    /// 16 binary16.
    unsafe fn load_f16(from: *const u16) -> Self::F;
    /// 16 bfloat16.
    unsafe fn load_bf16(from: *const u16) -> Self::F;
    /// Low, then high halves of 16 words, as binary16.
    #[inline(always)]
    unsafe fn halves_f16(from: *const u32) -> [Self::F; 2] {
        let words = from.cast::<[u32; LANES]>().read_unaligned();
        [Self::load_f16(words.map(|w| w as u16).as_ptr()), Self::load_f16(words.map(|w| (w >> 16) as u16).as_ptr())]
    }
    /// A code of each of 16 words as a number: the bits of `mask` above `shift`.
    #[inline(always)]
    unsafe fn code(from: *const u32, shift: i32, mask: i32) -> Self::F {
        let words = from.cast::<[u32; LANES]>().read_unaligned();
        let mut numbers = [0f32; LANES];
        for i in 0..LANES {
            numbers[i] = ((words[i] >> shift) as i32 & mask) as f32;
        }
        Self::load(numbers.as_ptr())
    }
    /// 16 nibbles as numbers, from 8 bytes.
    #[inline(always)]
    unsafe fn load_u4(from: *const u8) -> Self::F {
        let bytes = from.cast::<[u8; LANES / 2]>().read_unaligned();
        let mut numbers = [0f32; LANES];
        for i in 0..LANES {
            numbers[i] = f32::from((bytes[i / 2] >> (4 * (i % 2))) & 15);
        }
        Self::load(numbers.as_ptr())
    }
    /// Rounds to nearest even binary16.
    unsafe fn store_f16(to: *mut u16, x: Self::F);
    /// Rounds to nearest even bfloat16.
    unsafe fn store_bf16(to: *mut u16, x: Self::F);
    /// 16 bytes as numbers.
    unsafe fn load_u8(from: *const u8) -> Self::F;
    /// 16 codes of `BITS` bits as numbers: the low bits of each word hold 8.
    #[inline(always)]
    unsafe fn unpack<const BITS: usize>(words: [u64; 2]) -> Self::F {
        let mut numbers = [0f32; LANES];
        for i in 0..LANES {
            let code = (words[i / 8] >> (BITS * (i % 8))) as u32 & ((1 << BITS) - 1);
            numbers[i] = code as f32;
        }
        Self::load(numbers.as_ptr())
    }

    /// Decoder of 4-bit codes `q` to `scale · q + bias`.
    unsafe fn four(scale: f32, bias: f32) -> Self::Four;
    /// 16 decoded 4-bit codes from 8 bytes, in the instruction set's own order of lanes.
    unsafe fn load_four(from: *const u8, four: Self::Four) -> Self::F;
    /// Lanes into the order of [`Self::load_four`].
    unsafe fn to_four_order(x: Self::F) -> Self::F;
    /// Lanes back from the order of [`Self::load_four`].
    unsafe fn from_four_order(x: Self::F) -> Self::F;

    /// What 16 codes of 4 bits stand for, by code; those of the upper half are the negatives of the lower half.
    type Levels: Copy;
    /// Such numbers.
    unsafe fn levels(numbers: &[f32; LANES]) -> Self::Levels;
    /// What 16 codes stand for, from 8 bytes.
    unsafe fn load_levels(from: *const u8, levels: Self::Levels) -> Self::F;

    /// Asks for a cache line soon.
    unsafe fn prefetch(from: *const u8);

    /// 64 bytes: 16 lanes of 4.
    type Bytes: Copy;
    /// Running dot products of 16 lanes of bytes.
    type Dots: Copy;
    /// 16 whole numbers of 32 bits.
    type Whole: Copy;
    /// Largest sum of products that each place of [`Self::Dots`] holds; a product of four bytes adds two or four to one.
    const DOTS_LIMIT: u32;
    /// Rows of a tile of 16 outputs that fit the registers.
    const WHOLE_ROWS: usize;

    /// 64 bytes from memory.
    unsafe fn load_bytes(from: *const u8) -> Self::Bytes;
    /// 64 bytes to memory.
    unsafe fn store_bytes(to: *mut u8, x: Self::Bytes);
    /// `(x >> right) & mask` of each byte, where the mask has at most `8 - right` bits.
    unsafe fn bits(x: Self::Bytes, right: u32, mask: u8) -> Self::Bytes;
    /// `high << left | low` of each byte, where nothing is shifted out.
    unsafe fn join(high: Self::Bytes, left: u32, low: Self::Bytes) -> Self::Bytes;
    /// What `table` holds for each byte, which is below 16.
    #[inline(always)]
    unsafe fn look_up(x: Self::Bytes, table: &[u8; 16]) -> Self::Bytes {
        let mut bytes = [0u8; 4 * LANES];
        Self::store_bytes(bytes.as_mut_ptr(), x);
        Self::load_bytes(bytes.map(|byte| table[byte as usize & 15]).as_ptr())
    }
    /// No products yet.
    unsafe fn no_dots() -> Self::Dots;
    /// Adds the products of each lane's four bytes (0 to 255) with the four signed bytes at `x`.
    unsafe fn dot(dots: Self::Dots, codes: Self::Bytes, x: *const i8) -> Self::Dots;
    /// Zeros.
    unsafe fn zeros() -> Self::Whole;
    /// `sums + factor · dots`; the factor is 1 or 16.
    unsafe fn add_dots(sums: Self::Whole, dots: Self::Dots, factor: i16) -> Self::Whole;
    /// By value.
    unsafe fn to_float(x: Self::Whole) -> Self::F;
    /// Whole floats from -127 to 127 as signed bytes.
    unsafe fn store_i8(to: *mut i8, x: Self::F);

    /// Whether there are matrix units; only where there are, what begins with `matrix` may be called.
    const MATRIX: bool = false;
    /// Prepares for two tiles of so many rows (1 to 16; 0 if there is no second) of `bytes` bytes (4 to 64).
    unsafe fn matrix_begin(_rows: [usize; 2], _bytes: usize) {
        unreachable!("there are no matrix units")
    }
    /// No products yet.
    unsafe fn matrix_clear() {
        unreachable!("there are no matrix units")
    }
    /// Adds the products of both tiles, whose rows lie `stride` bytes apart, with two pieces of weights: sets of as many
    /// columns as a row has numbers. Signed bytes with bytes, or bfloat16.
    unsafe fn matrix_add<const BF16: bool>(_x: [*const u8; 2], _stride: usize, _weights: [*const u8; 2]) {
        unreachable!("there are no matrix units")
    }
    /// The sums of 16 outputs a row, 16 rows a tile, to memory: of the first tile with both pieces, of the second with both.
    unsafe fn matrix_store(_to: *mut u8) {
        unreachable!("there are no matrix units")
    }
    /// Leaves the matrix units to others.
    unsafe fn matrix_end() {
        unreachable!("there are no matrix units")
    }
    /// 16 whole numbers from memory.
    unsafe fn load_whole(_from: *const i32) -> Self::Whole {
        unreachable!("there are no matrix units")
    }

    /// Bytes of a number as [`Self::store_term`] writes it: 2, or 4 where products of bfloat16 are those of floats.
    const TERM_BYTES: usize = 4;
    /// 16 floats that are bfloat16.
    #[inline(always)]
    unsafe fn store_term(to: *mut u8, x: Self::F) {
        Self::store(to.cast(), x);
    }
    /// The bfloat16 of 16 words as floats: low halves, then high ones.
    #[inline(always)]
    unsafe fn halves_bf16(x: Self::Bytes) -> [Self::F; 2] {
        let mut words = [0u32; LANES];
        Self::store_bytes(words.as_mut_ptr().cast(), x);
        [words.map(|w| w << 16), words.map(|w| w & 0xffff_0000)].map(|half| Self::load(half.as_ptr().cast()))
    }
    /// Adds to each lane the products of its two bfloat16 with the two numbers at `x`, as [`Self::store_term`] left them.
    #[inline(always)]
    unsafe fn dot_pairs(sums: Self::F, weights: Self::Bytes, x: *const u8) -> Self::F {
        let ([low, high], x) = (Self::halves_bf16(weights), x.cast::<f32>());
        let sums = Self::fma(low, Self::splat(x.read_unaligned()), sums);
        Self::fma(high, Self::splat(x.add(1).read_unaligned()), sums)
    }
}

/// The sums of some vectors, as [`Isa::sum`]; four at a time where there are four.
#[inline(always)]
pub(crate) unsafe fn sums<I: Isa, const N: usize>(x: &[I::F; N]) -> [f32; N] {
    let mut out = [0f32; N];
    if N == 4 {
        out.copy_from_slice(&I::sum4([x[0], x[1 % N], x[2 % N], x[3 % N]]));
    } else {
        for n in 0..N {
            out[n] = I::sum(x[n]);
        }
    }
    out
}

/// Which instruction set to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum IsaKind {
    /// As [`Self::Avx512Bf16`], with the tiles of AMX.
    Amx,
    /// AVX-512 F, BW, DQ, VL, VNNI and BF16.
    Avx512Bf16,
    /// AVX-512 F, BW, DQ, VL and VNNI.
    Avx512Vnni,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
    /// AVX2, FMA and F16C.
    Avx2,
    /// 64-bit ARM's vectors with dot products of bytes with signed bytes.
    NeonI8mm,
    /// 64-bit ARM's vectors with dot products of signed bytes.
    NeonDot,
    /// 64-bit ARM's vectors.
    Neon,
    /// Plain Rust.
    Portable,
}

impl IsaKind {
    /// What this machine has, best first; plain Rust is always last.
    pub fn available() -> Vec<Self> {
        let mut kinds = vec![];
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 =
                is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
            let avx512 = avx2
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl");
            let vnni = avx512 && is_x86_feature_detected!("avx512vnni");
            let bf16 = (vnni && is_x86_feature_detected!("avx512bf16")).then_some(Self::Avx512Bf16);
            // Where there are tiles, or are kept from us, the instructions of vectors for bfloat16 are slower than floats.
            let (tiles, allowed) = amx::available();
            kinds.extend((bf16.is_some() && allowed).then_some(Self::Amx));
            kinds.extend(bf16.filter(|_| !tiles));
            kinds.extend(vnni.then_some(Self::Avx512Vnni));
            kinds.extend(bf16.filter(|_| tiles));
            kinds.extend(avx512.then_some(Self::Avx512));
            kinds.extend(avx2.then_some(Self::Avx2));
        }
        #[cfg(target_arch = "aarch64")]
        {
            use std::arch::is_aarch64_feature_detected;
            let dot = is_aarch64_feature_detected!("dotprod");
            kinds.extend((dot && is_aarch64_feature_detected!("i8mm")).then_some(Self::NeonI8mm));
            kinds.extend(dot.then_some(Self::NeonDot));
            kinds.extend(is_aarch64_feature_detected!("neon").then_some(Self::Neon));
        }
        kinds.push(Self::Portable);
        kinds
    }

    /// Runs a task on this instruction set.
    ///
    /// # Safety
    /// The kind is among [`Self::available`], and the task's pointers are valid.
    pub(crate) unsafe fn run<T: Task>(self, task: T) -> T::Out {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Amx if T::ROUNDED => avx512::Avx512::<{ avx512::AMX }>::enter(task),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 if T::ROUNDED => avx512::Avx512::<{ avx512::BF16 }>::enter(task),
            #[cfg(target_arch = "x86_64")]
            Self::Amx | Self::Avx512Bf16 | Self::Avx512Vnni => avx512::Avx512::<{ avx512::VNNI }>::enter(task),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => avx512::Avx512::<{ avx512::PLAIN }>::enter(task),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => avx2::Avx2::enter(task),
            #[cfg(target_arch = "aarch64")]
            Self::NeonI8mm => neon::Neon::<{ neon::I8MM }>::enter(task),
            #[cfg(target_arch = "aarch64")]
            Self::NeonDot => neon::Neon::<{ neon::DOT }>::enter(task),
            #[cfg(target_arch = "aarch64")]
            Self::Neon => neon::Neon::<{ neon::PLAIN }>::enter(task),
            _ => portable::Portable::enter(task),
        }
    }
}
