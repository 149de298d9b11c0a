//! TurboQuant codes against what theory says of them (Zandieh et al. 2025, arXiv 2504.19874, §3): the error of the best
//! quantiser of an element of a random unit vector, whose density is a shifted Beta; of products, and of vectors that
//! are not random at all once they are rotated.

use half::f16;
use swiftlm_ir::quant::rotation::rotate;
use swiftlm_ir::quant::turbo::{Product, Scale};
use swiftlm_ir::quant::{ArchiveRow, Turbo};
use swiftlm_ir::ty::PAGE_TOKENS;

/// Sizes with the least mean square errors of 1 to 4 bits: Lloyd's conditions solved on the Beta density by numeric
/// integration.
const LEAST: [(usize, [f64; 4]); 6] = [
    (64, [0.358387, 0.114526, 0.033391, 0.009132]),
    (96, [0.360056, 0.115508, 0.033773, 0.009253]),
    (128, [0.360889, 0.116000, 0.033966, 0.009315]),
    (192, [0.361720, 0.116493, 0.034159, 0.009377]),
    (256, [0.362136, 0.116740, 0.034256, 0.009408]),
    (512, [0.362758, 0.117111, 0.034402, 0.009454]),
];

/// Normal numbers by a seed: xorshift, Box & Muller.
struct Random(u64);

impl Random {
    fn unit(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    fn normals(&mut self, n: usize) -> Vec<f32> {
        let mut pair = || {
            let (radius, angle) = ((-2.0 * self.unit().ln()).sqrt(), std::f64::consts::TAU * self.unit());
            [radius * angle.cos(), radius * angle.sin()]
        };
        (0..n.div_ceil(2)).flat_map(|_| pair()).map(|x| x as f32).take(n).collect()
    }

    fn vector(&mut self, dim: usize) -> Vec<f32> {
        normalised(self.normals(dim))
    }
}

fn dot(x: &[f32], y: &[f32]) -> f64 {
    x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
}

fn normalised(x: Vec<f32>) -> Vec<f32> {
    let length = dot(&x, &x).sqrt() as f32;
    x.into_iter().map(|x| x / length).collect()
}

fn distance(x: &[f32], y: &[f32]) -> f64 {
    x.iter().zip(y).map(|(x, y)| f64::from(x - y).powi(2)).sum()
}

/// A vector with the paper's own scale, which is its length.
fn plain(format: Turbo, x: &[f32]) -> Vec<f32> {
    let unit = dot(x, x).sqrt() as f32 / (x.len() as f32).sqrt() / format.levels_per_deviation();
    format.encode(x).0.into_iter().map(|code| f32::from(format.level(code)) * unit).collect()
}

fn turbo(bits: u8, scale: Scale) -> Turbo {
    Turbo::new(bits, scale).expect("1 to 4 bits")
}

fn near(got: f64, expected: f64, share: f64, what: &str) {
    assert!((got / expected - 1.0).abs() <= share, "{what}: {got}, expected {expected} within {share}");
}

/// Mean errors of 100 000 random unit vectors with the plain scale and with both stored ones.
fn errors(bits: u8, dim: usize) -> [f64; 3] {
    const VECTORS: usize = 100_000;
    let (matched, unbiased) = (turbo(bits, Scale::Matched), turbo(bits, Scale::Unbiased));
    let mut random = Random(0x5eed + dim as u64);
    let mut sums = [0.0; 3];
    for _ in 0..VECTORS {
        let x = random.vector(dim);
        let decoded = [plain(matched, &x), matched.rounded(&x), unbiased.rounded(&x)];
        sums.iter_mut().zip(&decoded).for_each(|(sum, y)| *sum += distance(&x, y));
    }
    sums.map(|sum| sum / VECTORS as f64)
}

fn size(dim: usize) {
    let least = LEAST.iter().find(|(of, _)| *of == dim).expect("a size of the table").1;
    for (bits, least) in (1..).zip(least) {
        let [plain, matched, unbiased] = errors(bits, dim);
        let what = format!("{bits} bits of {dim}");
        near(plain, least, 0.01, &what);
        // |x - s c|² where c has the part √(1 - D) of x's direction.
        near(matched, 2.0 - 2.0 * (1.0 - least).sqrt(), 0.04, &format!("{what}, matched"));
        near(unbiased, least / (1.0 - least), 0.04, &format!("{what}, unbiased"));
    }
}

macro_rules! sizes {
    ($($name:ident = $dim:literal),+) => { $(#[test] fn $name() { size($dim); })+ };
}
sizes!(of_64 = 64, of_96 = 96, of_128 = 128, of_192 = 192, of_256 = 256, of_512 = 512);

/// The polynomials that stand in for a table of levels elsewhere, in deviations; `u` is the code less the middle.
#[test]
fn levels_are_close_to_polynomials() {
    let (cubic3, cubic4) = (|u: f64| u * (0.471455 + 0.0115848 * u * u), |u: f64| u * (0.240507 + 0.00209753 * u * u));
    let mut random = Random(77);
    let (three, four) = (turbo(3, Scale::Matched), turbo(4, Scale::Matched));
    for (format, decode, least) in
        [(three, &cubic3 as &dyn Fn(f64) -> f64, LEAST[2].1[2]), (four, &cubic4, LEAST[2].1[3])]
    {
        let middle = f64::from((1u32 << format.bits) - 1) / 2.0;
        let levels: Vec<f64> = (0..1 << format.bits).map(|code| decode(f64::from(code) - middle)).collect();
        let error = |x: &f32| {
            let deviations = f64::from(*x) * 128f64.sqrt();
            levels.iter().map(|level| (level - deviations).powi(2) / 128.0).fold(f64::INFINITY, f64::min)
        };
        let sum: f64 = (0..20_000).map(|_| random.vector(128).iter().map(error).sum::<f64>()).sum();
        assert!(sum / 20_000.0 <= 1.022 * least, "{format}: {}", sum / 20_000.0);
    }
}

/// Vectors that are as far from random as can be: one or three elements, or an offset of all.
#[test]
fn rotated_vectors_are_as_good_as_random_ones() {
    for (dim, least) in LEAST {
        let mut random = Random(0xfeed + dim as u64);
        let mut sparse = |count: usize| {
            let mut x = vec![0.0; dim];
            (0..count).for_each(|_| x[(random.unit() * dim as f64) as usize] += random.normals(1)[0]);
            x
        };
        let one: Vec<Vec<f32>> = (0..dim).map(|i| (0..dim).map(|j| f32::from(u8::from(i == j))).collect()).collect();
        let three: Vec<Vec<f32>> = (0..4000).map(|_| sparse(3)).collect();
        let offset = (0..4000).map(|_| random.normals(dim).into_iter().map(|x| x + 20.0).collect()).collect();
        for (kind, vectors) in [("one element", one), ("three elements", three), ("an offset", offset)] {
            for bits in 3..=4 {
                let format = turbo(bits, Scale::Matched);
                let error = |x: &Vec<f32>| {
                    let mut x = normalised(x.clone());
                    rotate(&mut x, false).expect("a size that rotates");
                    distance(&x, &plain(format, &x))
                };
                let mean = vectors.iter().map(error).sum::<f64>() / vectors.len() as f64;
                let bar = 1.03 * least[bits as usize - 1];
                assert!(mean <= bar, "{kind} of {dim}, {bits} bits: {mean}, bar {bar}");
            }
        }
    }
}

/// Regression of `<y, x̃>` on `<y, x>` over pairs: slope, and variance of what is left, times the dimension.
fn products(dim: usize, pairs: usize, decode: impl Fn(&[f32]) -> Vec<f32>) -> (f64, f64) {
    const PER_VECTOR: usize = 20;
    let mut random = Random(0xabc);
    let (mut xy, mut xx, mut left) = (0.0, 0.0, 0.0);
    for _ in 0..pairs / PER_VECTOR {
        let x = random.vector(dim);
        let decoded = decode(&x);
        for _ in 0..PER_VECTOR {
            let y = random.vector(dim);
            let (exact, got) = (dot(&y, &x), dot(&y, &decoded));
            (xy, xx, left) = (xy + exact * got, xx + exact * exact, left + (got - exact).powi(2));
        }
    }
    (xy / xx, left / pairs as f64 * dim as f64)
}

#[test]
fn the_unbiased_scale_keeps_products() {
    for bits in 1..=4 {
        let format = turbo(bits, Scale::Unbiased);
        let (slope, variance) = products(128, 1_000_000, |x| format.rounded(x));
        let least = LEAST[2].1[bits as usize - 1];
        assert!((slope - 1.0).abs() <= 0.002, "{bits} bits: slope {slope}");
        assert!(variance <= 1.03 * least / (1.0 - least), "{bits} bits: {variance}");
    }
    // The plain scale is biased: 1 - D.
    let format = turbo(2, Scale::Matched);
    near(products(128, 200_000, |x| plain(format, x)).0, 1.0 - LEAST[2].1[1], 0.01, "the slope of the plain scale");
}

#[test]
fn the_two_stage_form_has_the_paper_s_error() {
    let mut random = Random(9);
    for bits in 2..=4u8 {
        let least = LEAST[2].1[bits as usize - 2];
        let form = Product::new(bits, 128, |n| random.normals(n)).expect("2 to 4 bits");
        let (slope, variance) = products(128, 200_000, |x| form.rounded(x));
        near(variance, std::f64::consts::FRAC_PI_2 * least, 0.03, &format!("{bits} bits"));
        assert!((slope - 1.0).abs() <= 0.01, "{bits} bits: slope {slope}");
    }
}

#[test]
fn pages_hold_what_was_coded() {
    let mut random = Random(3);
    for (bits, dim) in [(4, 64), (4, 80), (3, 128), (3, 96), (3, 80), (2, 64), (1, 64), (4, 16)] {
        let row = ArchiveRow::new(turbo(bits, Scale::Matched), dim).expect("a size that rotates");
        let x = random.normals(PAGE_TOKENS * dim);
        for keys in [true, false] {
            let words = row.encode(&x, keys);
            assert_eq!(4 * words.len(), row.page_bytes());
            let expected: Vec<f32> = x.chunks_exact(dim).flat_map(|x| row.format.rounded(x)).collect();
            assert_eq!(row.decode(&words, keys), expected, "{bits} bits of {dim}, keys: {keys}");
        }
    }
    // f16 against b + 16/dim bits.
    let bytes = |bits, dim| ArchiveRow::new(turbo(bits, Scale::Matched), dim).expect("a row").page_bytes();
    assert_eq!((bytes(4, 128), bytes(3, 128), bytes(4, 64)), (32 * 66, 32 * 50, 32 * 34));
}

#[test]
fn what_has_no_length_is_zero() {
    let format = turbo(4, Scale::Matched);
    for x in [[0.0; 8], [f32::NAN; 8], [f32::INFINITY; 8]] {
        assert_eq!(format.encode(&x).1, f16::ZERO);
    }
    assert!(format.rounded(&[1e9; 8]).iter().all(|x| x.is_finite()));
    assert!("turbo5".parse::<Turbo>().is_err() && "turbo".parse::<Turbo>().is_err());
    assert_eq!("turbo3_unbiased".parse::<Turbo>().expect("a format").to_string(), "turbo3_unbiased");
}
