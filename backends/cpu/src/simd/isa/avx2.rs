//! AVX2 with FMA and F16C: two registers hold a vector.

use std::arch::x86_64::*;

use super::{Isa, Task};

/// AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(super) struct Avx2;

/// Lanes 0 to 7 and 8 to 15.
type Pair = [__m256; 2];

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn enter<T: Task>(task: T) -> T::Out {
    task.run::<Avx2>()
}

impl Isa for Avx2 {
    type F = Pair;
    /// Scale and bias.
    type Four = [__m256; 2];
    const TILE: (usize, usize) = (3, 2);

    #[inline(always)]
    unsafe fn enter<T: Task>(task: T) -> T::Out {
        enter(task)
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Pair {
        [_mm256_set1_ps(x); 2]
    }
    #[inline(always)]
    unsafe fn splat_pair(from: *const f32) -> Pair {
        [_mm256_castpd_ps(_mm256_set1_pd(from.cast::<f64>().read_unaligned())); 2]
    }
    #[inline(always)]
    unsafe fn store_pair_sums(to: *mut f32, x: Pair) {
        let sums = _mm256_castps_pd(_mm256_hadd_ps(x[0], x[1]));
        _mm256_storeu_ps(to, _mm256_castpd_ps(_mm256_permute4x64_pd::<0b11_01_10_00>(sums)));
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Pair {
        [_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))]
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, x: Pair) {
        _mm256_storeu_ps(to, x[0]);
        _mm256_storeu_ps(to.add(8), x[1]);
    }
    #[inline(always)]
    unsafe fn add(a: Pair, b: Pair) -> Pair {
        [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])]
    }
    #[inline(always)]
    unsafe fn sub(a: Pair, b: Pair) -> Pair {
        [_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])]
    }
    #[inline(always)]
    unsafe fn mul(a: Pair, b: Pair) -> Pair {
        [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])]
    }
    #[inline(always)]
    unsafe fn div(a: Pair, b: Pair) -> Pair {
        [_mm256_div_ps(a[0], b[0]), _mm256_div_ps(a[1], b[1])]
    }
    #[inline(always)]
    unsafe fn min(a: Pair, b: Pair) -> Pair {
        [_mm256_min_ps(a[0], b[0]), _mm256_min_ps(a[1], b[1])]
    }
    #[inline(always)]
    unsafe fn max(a: Pair, b: Pair) -> Pair {
        [_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])]
    }
    #[inline(always)]
    unsafe fn fma(a: Pair, b: Pair, c: Pair) -> Pair {
        [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])]
    }
    #[inline(always)]
    unsafe fn scale_by_power(x: Pair, shifted: Pair) -> Pair {
        let [a, b] = [_mm256_castps_si256(shifted[0]), _mm256_castps_si256(shifted[1])];
        let [a, b] = [_mm256_slli_epi32::<23>(a), _mm256_slli_epi32::<23>(b)];
        [
            _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(x[0]), a)),
            _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(x[1]), b)),
        ]
    }
    #[inline(always)]
    unsafe fn sum(x: Pair) -> f32 {
        let x = _mm256_add_ps(x[0], x[1]);
        let x = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
        let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
        _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)))
    }
    #[inline(always)]
    unsafe fn largest(x: Pair) -> f32 {
        let x = _mm256_max_ps(x[0], x[1]);
        let x = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
        let x = _mm_max_ps(x, _mm_movehl_ps(x, x));
        _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)))
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> Pair {
        [_mm256_cvtph_ps(_mm_loadu_si128(from.cast())), _mm256_cvtph_ps(_mm_loadu_si128(from.add(8).cast()))]
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> Pair {
        let a = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
        let b = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.add(8).cast()));
        [_mm256_castsi256_ps(_mm256_slli_epi32::<16>(a)), _mm256_castsi256_ps(_mm256_slli_epi32::<16>(b))]
    }
    #[inline(always)]
    unsafe fn halves_f16(from: *const u32) -> [Pair; 2] {
        let low_then_high = _mm256_setr_epi8(
            0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15, 0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15,
        );
        let mut halves = [[_mm256_setzero_ps(); 2]; 2];
        for i in 0..2 {
            let words = _mm256_shuffle_epi8(_mm256_loadu_si256(from.add(8 * i).cast()), low_then_high);
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(words);
            halves[0][i] = _mm256_cvtph_ps(_mm256_castsi256_si128(words));
            halves[1][i] = _mm256_cvtph_ps(_mm256_extracti128_si256::<1>(words));
        }
        halves
    }
    #[inline(always)]
    unsafe fn code(from: *const u32, shift: i32, mask: i32) -> Pair {
        // A whole byte takes one shuffle: byte `shift / 8` of each word, zeros behind.
        const ZEROS: i32 = i32::from_le_bytes([0, 0x80, 0x80, 0x80]);
        let byte = _mm256_or_si256(_mm256_set1_epi32(ZEROS | (shift / 8)), _mm256_setr_epi32(0, 4, 8, 12, 0, 4, 8, 12));
        let (count, bits) = (_mm256_set1_epi32(shift), _mm256_set1_epi32(mask));
        let mut codes = [_mm256_setzero_ps(); 2];
        for i in 0..2 {
            let words = _mm256_loadu_si256(from.add(8 * i).cast());
            codes[i] = _mm256_cvtepi32_ps(if mask == 255 {
                _mm256_shuffle_epi8(words, byte)
            } else {
                _mm256_and_si256(_mm256_srlv_epi32(words, count), bits)
            });
        }
        codes
    }
    #[inline(always)]
    unsafe fn load_u4(from: *const u8) -> Pair {
        let bytes = _mm_loadl_epi64(from.cast());
        let (low, high) = (_mm_and_si128(bytes, _mm_set1_epi8(15)), _mm_srli_epi16::<4>(bytes));
        let codes = _mm_unpacklo_epi8(low, _mm_and_si128(high, _mm_set1_epi8(15)));
        let upper = _mm_srli_si128::<8>(codes);
        [_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(codes)), _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(upper))]
    }
    #[inline(always)]
    unsafe fn store_f16(to: *mut u16, x: Pair) {
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT;
        _mm_storeu_si128(to.cast(), _mm256_cvtps_ph::<NEAREST>(x[0]));
        _mm_storeu_si128(to.add(8).cast(), _mm256_cvtps_ph::<NEAREST>(x[1]));
    }
    #[inline(always)]
    unsafe fn store_bf16(to: *mut u16, x: Pair) {
        let mut lanes = [0f32; 16];
        Self::store(lanes.as_mut_ptr(), x);
        for (i, lane) in lanes.iter().enumerate() {
            to.add(i).write_unaligned(super::portable::bf16_of(*lane));
        }
    }
    #[inline(always)]
    unsafe fn load_u8(from: *const u8) -> Pair {
        let bytes = _mm_loadu_si128(from.cast());
        let high = _mm_srli_si128::<8>(bytes);
        [_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)), _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(high))]
    }
    #[inline(always)]
    unsafe fn four(scale: f32, bias: f32) -> Pair {
        [_mm256_set1_ps(scale), _mm256_set1_ps(bias)]
    }
    #[inline(always)]
    unsafe fn load_four(from: *const u8, [scale, bias]: Pair) -> Pair {
        let shifts = _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28);
        let mask = _mm256_set1_epi32(15);
        let a = _mm256_srlv_epi32(_mm256_set1_epi32(from.cast::<i32>().read_unaligned()), shifts);
        let b = _mm256_srlv_epi32(_mm256_set1_epi32(from.add(4).cast::<i32>().read_unaligned()), shifts);
        let a = _mm256_cvtepi32_ps(_mm256_and_si256(a, mask));
        let b = _mm256_cvtepi32_ps(_mm256_and_si256(b, mask));
        [_mm256_fmadd_ps(a, scale, bias), _mm256_fmadd_ps(b, scale, bias)]
    }
    #[inline(always)]
    unsafe fn to_four_order(x: Pair) -> Pair {
        x
    }
    #[inline(always)]
    unsafe fn from_four_order(x: Pair) -> Pair {
        x
    }
    /// Those of the lower half.
    type Levels = __m256;
    #[inline(always)]
    unsafe fn levels(numbers: &[f32; 16]) -> __m256 {
        _mm256_loadu_ps(numbers.as_ptr())
    }
    /// The look-up takes three bits of a code; the fourth is the sign.
    #[inline(always)]
    unsafe fn load_levels(from: *const u8, levels: __m256) -> Pair {
        let shifts = _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28);
        let sign = _mm256_set1_epi32(i32::MIN);
        let half = |i: usize| {
            let word = from.add(4 * i).cast::<i32>().read_unaligned();
            let codes = _mm256_srlv_epi32(_mm256_set1_epi32(word), shifts);
            let signs = _mm256_and_si256(_mm256_slli_epi32::<28>(codes), sign);
            _mm256_xor_ps(_mm256_permutevar8x32_ps(levels, codes), _mm256_castsi256_ps(signs))
        };
        [half(0), half(1)]
    }
    #[inline(always)]
    unsafe fn prefetch(from: *const u8) {
        _mm_prefetch::<_MM_HINT_T0>(from.cast());
    }

    type Bytes = [__m256i; 2];
    /// 16-bit sums: each lane has two.
    type Dots = [__m256i; 2];
    type Whole = [__m256i; 2];
    const DOTS_LIMIT: u32 = i16::MAX as u32;
    const WHOLE_ROWS: usize = 4;

    #[inline(always)]
    unsafe fn load_bytes(from: *const u8) -> Self::Bytes {
        [_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(from.add(32).cast())]
    }
    #[inline(always)]
    unsafe fn store_bytes(to: *mut u8, x: Self::Bytes) {
        _mm256_storeu_si256(to.cast(), x[0]);
        _mm256_storeu_si256(to.add(32).cast(), x[1]);
    }
    #[inline(always)]
    unsafe fn bits(x: Self::Bytes, right: u32, mask: u8) -> Self::Bytes {
        let (count, mask) = (_mm_cvtsi32_si128(right as i32), _mm256_set1_epi8(mask as i8));
        x.map(|x| _mm256_and_si256(_mm256_srl_epi16(x, count), mask))
    }
    #[inline(always)]
    unsafe fn join(high: Self::Bytes, left: u32, low: Self::Bytes) -> Self::Bytes {
        let count = _mm_cvtsi32_si128(left as i32);
        [
            _mm256_or_si256(_mm256_sll_epi16(high[0], count), low[0]),
            _mm256_or_si256(_mm256_sll_epi16(high[1], count), low[1]),
        ]
    }
    #[inline(always)]
    unsafe fn look_up(x: Self::Bytes, table: &[u8; 16]) -> Self::Bytes {
        let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
        x.map(|x| _mm256_shuffle_epi8(table, x))
    }
    #[inline(always)]
    unsafe fn no_dots() -> Self::Dots {
        [_mm256_setzero_si256(); 2]
    }
    #[inline(always)]
    unsafe fn dot(dots: Self::Dots, codes: Self::Bytes, x: *const i8) -> Self::Dots {
        let x = _mm256_set1_epi32(x.cast::<i32>().read_unaligned());
        [
            _mm256_add_epi16(dots[0], _mm256_maddubs_epi16(codes[0], x)),
            _mm256_add_epi16(dots[1], _mm256_maddubs_epi16(codes[1], x)),
        ]
    }
    #[inline(always)]
    unsafe fn zeros() -> Self::Whole {
        [_mm256_setzero_si256(); 2]
    }
    #[inline(always)]
    unsafe fn add_dots(sums: Self::Whole, dots: Self::Dots, factor: i16) -> Self::Whole {
        let factor = _mm256_set1_epi16(factor);
        [
            _mm256_add_epi32(sums[0], _mm256_madd_epi16(dots[0], factor)),
            _mm256_add_epi32(sums[1], _mm256_madd_epi16(dots[1], factor)),
        ]
    }
    #[inline(always)]
    unsafe fn to_float(x: Self::Whole) -> Pair {
        [_mm256_cvtepi32_ps(x[0]), _mm256_cvtepi32_ps(x[1])]
    }
    #[inline(always)]
    unsafe fn store_i8(to: *mut i8, x: Pair) {
        let words = _mm256_packs_epi32(_mm256_cvtps_epi32(x[0]), _mm256_cvtps_epi32(x[1]));
        // Packing works in halves of a register; this puts them in order.
        let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(words);
        let bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
        _mm_storeu_si128(to.cast(), bytes);
    }

    #[inline(always)]
    unsafe fn halves_bf16(x: [__m256i; 2]) -> [Self::F; 2] {
        let high = _mm256_set1_epi32(0xffff_0000_u32 as i32);
        [
            x.map(|x| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(x))),
            x.map(|x| _mm256_castsi256_ps(_mm256_and_si256(x, high))),
        ]
    }
}
