//! AVX-512: one register holds a vector.

use std::arch::x86_64::*;

use super::{Isa, Task, amx};

/// AVX-512 F, BW, DQ and VL.
pub(super) const PLAIN: u8 = 0;
/// With VNNI.
pub(super) const VNNI: u8 = 1;
/// With VNNI and BF16.
pub(super) const BF16: u8 = 2;
/// With VNNI, BF16 and AMX.
pub(super) const AMX: u8 = 3;

/// AVX-512 with the extensions of a level.
#[derive(Clone, Copy)]
pub(super) struct Avx512<const LEVEL: u8>;

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn enter<T: Task>(task: T) -> T::Out {
    task.run::<Avx512<PLAIN>>()
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn enter_vnni<T: Task>(task: T) -> T::Out {
    task.run::<Avx512<VNNI>>()
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx2,fma,f16c")]
unsafe fn enter_bf16<T: Task>(task: T) -> T::Out {
    task.run::<Avx512<BF16>>()
}

/// The compiler need not know of AMX, which is written in assembly.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx2,fma,f16c")]
unsafe fn enter_amx<T: Task>(task: T) -> T::Out {
    task.run::<Avx512<AMX>>()
}

impl<const LEVEL: u8> Isa for Avx512<LEVEL> {
    type F = __m512;
    /// All 16 values that a code can mean, looked up by the code.
    type Four = __m512;
    const TILE: (usize, usize) = (6, 4);
    const WIDE: bool = true;

    #[inline(always)]
    unsafe fn enter<T: Task>(task: T) -> T::Out {
        match LEVEL {
            PLAIN => enter(task),
            VNNI => enter_vnni(task),
            BF16 => enter_bf16(task),
            _ => enter_amx(task),
        }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> __m512 {
        _mm512_set1_ps(x)
    }
    #[inline(always)]
    unsafe fn splat_pair(from: *const f32) -> __m512 {
        _mm512_castpd_ps(_mm512_set1_pd(from.cast::<f64>().read_unaligned()))
    }
    #[inline(always)]
    unsafe fn store_pair_sums(to: *mut f32, x: __m512) {
        let sums = _mm512_castps_pd(_mm512_add_ps(x, _mm512_movehdup_ps(x)));
        let even = _mm512_castps_si512(_mm512_castpd_ps(sums));
        _mm256_storeu_si256(to.cast(), _mm512_cvtepi64_epi32(even));
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m512 {
        _mm512_loadu_ps(from)
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, x: __m512) {
        _mm512_storeu_ps(to, x);
    }
    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        _mm512_add_ps(a, b)
    }
    #[inline(always)]
    unsafe fn sub(a: __m512, b: __m512) -> __m512 {
        _mm512_sub_ps(a, b)
    }
    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        _mm512_mul_ps(a, b)
    }
    #[inline(always)]
    unsafe fn div(a: __m512, b: __m512) -> __m512 {
        _mm512_div_ps(a, b)
    }
    #[inline(always)]
    unsafe fn min(a: __m512, b: __m512) -> __m512 {
        _mm512_min_ps(a, b)
    }
    #[inline(always)]
    unsafe fn max(a: __m512, b: __m512) -> __m512 {
        _mm512_max_ps(a, b)
    }
    #[inline(always)]
    unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        _mm512_fmadd_ps(a, b, c)
    }
    #[inline(always)]
    unsafe fn scale_by_power(x: __m512, shifted: __m512) -> __m512 {
        let exponent = _mm512_slli_epi32::<23>(_mm512_castps_si512(shifted));
        _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(x), exponent))
    }
    #[inline(always)]
    unsafe fn sum(x: __m512) -> f32 {
        let x = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps::<1>(x));
        let x = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
        let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
        _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)))
    }
    #[inline(always)]
    unsafe fn sum4([a, b, c, d]: [__m512; 4]) -> [f32; 4] {
        let ab = _mm512_add_ps(_mm512_shuffle_f32x4::<0x44>(a, b), _mm512_shuffle_f32x4::<0xee>(a, b));
        let cd = _mm512_add_ps(_mm512_shuffle_f32x4::<0x44>(c, d), _mm512_shuffle_f32x4::<0xee>(c, d));
        let x = _mm512_add_ps(_mm512_shuffle_f32x4::<0x88>(ab, cd), _mm512_shuffle_f32x4::<0xdd>(ab, cd));
        let x = _mm512_add_ps(x, _mm512_permute_ps::<0xee>(x));
        let x = _mm512_add_ps(x, _mm512_movehdup_ps(x));
        let packed = _mm512_maskz_compress_ps(0x1111, x);
        let mut out = [0f32; 4];
        _mm_storeu_ps(out.as_mut_ptr(), _mm512_castps512_ps128(packed));
        out
    }
    #[inline(always)]
    unsafe fn largest(x: __m512) -> f32 {
        let x = _mm256_max_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps::<1>(x));
        let x = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
        let x = _mm_max_ps(x, _mm_movehl_ps(x, x));
        _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)))
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> __m512 {
        _mm512_cvtph_ps(_mm256_loadu_si256(from.cast()))
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> __m512 {
        let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
    }
    #[inline(always)]
    unsafe fn halves_f16(from: *const u32) -> [__m512; 2] {
        let words = _mm512_loadu_si512(from.cast());
        let high = _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(words));
        [_mm512_cvtph_ps(_mm512_cvtepi32_epi16(words)), _mm512_cvtph_ps(high)]
    }
    #[inline(always)]
    unsafe fn code(from: *const u32, shift: i32, mask: i32) -> __m512 {
        let words = _mm512_srlv_epi32(_mm512_loadu_si512(from.cast()), _mm512_set1_epi32(shift));
        _mm512_cvtepi32_ps(_mm512_and_si512(words, _mm512_set1_epi32(mask)))
    }
    #[inline(always)]
    unsafe fn store_f16(to: *mut u16, x: __m512) {
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        _mm256_storeu_si256(to.cast(), _mm512_cvtps_ph::<NEAREST>(x));
    }
    #[inline(always)]
    unsafe fn store_bf16(to: *mut u16, x: __m512) {
        let bits = _mm512_castps_si512(x);
        let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
        let rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
        // Rounding could carry a NaN's mantissa into infinity.
        let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x);
        let rounded = _mm512_mask_mov_epi32(rounded, nan, _mm512_set1_epi32(0x7fc0_0000));
        _mm256_storeu_si256(to.cast(), _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(rounded)));
    }
    #[inline(always)]
    unsafe fn load_u8(from: *const u8) -> __m512 {
        _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(from.cast())))
    }
    #[inline(always)]
    unsafe fn unpack<const BITS: usize>(words: [u64; 2]) -> __m512 {
        let bits = BITS as i64;
        let shifts = _mm512_setr_epi64(0, bits, 2 * bits, 3 * bits, 4 * bits, 5 * bits, 6 * bits, 7 * bits);
        let mask = _mm512_set1_epi64((1 << bits) - 1);
        let low = _mm512_and_si512(_mm512_srlv_epi64(_mm512_set1_epi64(words[0] as i64), shifts), mask);
        let high = _mm512_and_si512(_mm512_srlv_epi64(_mm512_set1_epi64(words[1] as i64), shifts), mask);
        _mm512_insertf32x8::<1>(_mm512_castps256_ps512(_mm512_cvtepi64_ps(low)), _mm512_cvtepi64_ps(high))
    }
    #[inline(always)]
    unsafe fn four(scale: f32, bias: f32) -> __m512 {
        let codes = _mm512_setr_ps(0., 1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11., 12., 13., 14., 15.);
        _mm512_fmadd_ps(codes, _mm512_set1_ps(scale), _mm512_set1_ps(bias))
    }
    /// The eight 64-bit lanes shift the same 8 bytes by 0, 4, … 28 bits, so that code `i` comes to lane `2i` and code
    /// `i + 8` to lane `2i + 1`; the look-up ignores the bits above a code.
    #[inline(always)]
    unsafe fn load_four(from: *const u8, four: __m512) -> __m512 {
        let bytes = _mm512_set1_epi64(from.cast::<i64>().read_unaligned());
        let codes = _mm512_srlv_epi64(bytes, _mm512_setr_epi64(0, 4, 8, 12, 16, 20, 24, 28));
        _mm512_permutexvar_ps(codes, four)
    }
    #[inline(always)]
    unsafe fn to_four_order(x: __m512) -> __m512 {
        _mm512_permutexvar_ps(_mm512_setr_epi32(0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15), x)
    }
    #[inline(always)]
    unsafe fn from_four_order(x: __m512) -> __m512 {
        _mm512_permutexvar_ps(_mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15), x)
    }
    type Levels = __m512;
    #[inline(always)]
    unsafe fn levels(numbers: &[f32; 16]) -> __m512 {
        _mm512_loadu_ps(numbers.as_ptr())
    }
    /// The look-up ignores the bits above a code.
    #[inline(always)]
    unsafe fn load_levels(from: *const u8, levels: __m512) -> __m512 {
        let words = from.cast::<[i32; 2]>().read_unaligned().map(|word| _mm256_set1_epi32(word));
        let words = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(words[0]), words[1]);
        let shifts = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 4, 8, 12, 16, 20, 24, 28);
        _mm512_permutexvar_ps(_mm512_srlv_epi32(words, shifts), levels)
    }
    #[inline(always)]
    unsafe fn prefetch(from: *const u8) {
        _mm_prefetch::<_MM_HINT_T0>(from.cast());
    }

    type Bytes = __m512i;
    /// With VNNI 32-bit sums, without two 16-bit sums a lane.
    type Dots = __m512i;
    type Whole = __m512i;
    const DOTS_LIMIT: u32 = if LEVEL >= VNNI { i32::MAX as u32 } else { i16::MAX as u32 };
    const WHOLE_ROWS: usize = 8;

    #[inline(always)]
    unsafe fn load_bytes(from: *const u8) -> __m512i {
        _mm512_loadu_si512(from.cast())
    }
    #[inline(always)]
    unsafe fn store_bytes(to: *mut u8, x: __m512i) {
        _mm512_storeu_si512(to.cast(), x);
    }
    #[inline(always)]
    unsafe fn bits(x: __m512i, right: u32, mask: u8) -> __m512i {
        _mm512_and_si512(_mm512_srl_epi16(x, _mm_cvtsi32_si128(right as i32)), _mm512_set1_epi8(mask as i8))
    }
    #[inline(always)]
    unsafe fn join(high: __m512i, left: u32, low: __m512i) -> __m512i {
        _mm512_or_si512(_mm512_sll_epi16(high, _mm_cvtsi32_si128(left as i32)), low)
    }
    #[inline(always)]
    unsafe fn look_up(x: __m512i, table: &[u8; 16]) -> __m512i {
        let table = _mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast()));
        _mm512_shuffle_epi8(table, x)
    }
    #[inline(always)]
    unsafe fn no_dots() -> __m512i {
        _mm512_setzero_si512()
    }
    #[inline(always)]
    unsafe fn dot(dots: __m512i, codes: __m512i, x: *const i8) -> __m512i {
        let x = _mm512_set1_epi32(x.cast::<i32>().read_unaligned());
        if LEVEL >= VNNI {
            _mm512_dpbusd_epi32(dots, codes, x)
        } else {
            _mm512_add_epi16(dots, _mm512_maddubs_epi16(codes, x))
        }
    }
    #[inline(always)]
    unsafe fn zeros() -> __m512i {
        _mm512_setzero_si512()
    }
    #[inline(always)]
    unsafe fn add_dots(sums: __m512i, dots: __m512i, factor: i16) -> __m512i {
        let dots = match (LEVEL >= VNNI, factor) {
            (true, 1) => dots,
            (true, factor) => _mm512_mullo_epi32(dots, _mm512_set1_epi32(i32::from(factor))),
            (false, factor) => _mm512_madd_epi16(dots, _mm512_set1_epi16(factor)),
        };
        _mm512_add_epi32(sums, dots)
    }
    #[inline(always)]
    unsafe fn to_float(x: __m512i) -> __m512 {
        _mm512_cvtepi32_ps(x)
    }
    #[inline(always)]
    unsafe fn store_i8(to: *mut i8, x: __m512) {
        _mm_storeu_si128(to.cast(), _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(x)));
    }

    const TERM_BYTES: usize = if LEVEL >= BF16 { 2 } else { 4 };
    #[inline(always)]
    unsafe fn store_term(to: *mut u8, x: __m512) {
        if LEVEL >= BF16 { Self::store_bf16(to.cast(), x) } else { Self::store(to.cast(), x) }
    }
    #[inline(always)]
    unsafe fn halves_bf16(x: __m512i) -> [__m512; 2] {
        let high = _mm512_and_si512(x, _mm512_set1_epi32(0xffff_0000_u32 as i32));
        [_mm512_castsi512_ps(_mm512_slli_epi32::<16>(x)), _mm512_castsi512_ps(high)]
    }
    #[inline(always)]
    unsafe fn dot_pairs(sums: __m512, weights: __m512i, x: *const u8) -> __m512 {
        if LEVEL >= BF16 {
            let x = _mm512_set1_epi32(x.cast::<i32>().read_unaligned());
            let [weights, x] = [weights, x].map(|pairs| std::mem::transmute::<__m512i, __m512bh>(pairs));
            return _mm512_dpbf16_ps(sums, weights, x);
        }
        let ([low, high], x) = (Self::halves_bf16(weights), x.cast::<f32>());
        let sums = _mm512_fmadd_ps(low, _mm512_set1_ps(x.read_unaligned()), sums);
        _mm512_fmadd_ps(high, _mm512_set1_ps(x.add(1).read_unaligned()), sums)
    }

    const MATRIX: bool = LEVEL >= AMX;
    #[inline(always)]
    unsafe fn matrix_begin(rows: [usize; 2], bytes: usize) {
        amx::begin(rows, bytes);
    }
    #[inline(always)]
    unsafe fn matrix_clear() {
        amx::clear();
    }
    #[inline(always)]
    unsafe fn matrix_add<const BF16: bool>(x: [*const u8; 2], stride: usize, weights: [*const u8; 2]) {
        amx::add::<BF16>(x, stride, weights);
    }
    #[inline(always)]
    unsafe fn matrix_store(to: *mut u8) {
        amx::store(to);
    }
    #[inline(always)]
    unsafe fn matrix_end() {
        amx::end();
    }
    #[inline(always)]
    unsafe fn load_whole(from: *const i32) -> __m512i {
        _mm512_loadu_si512(from.cast())
    }
}
