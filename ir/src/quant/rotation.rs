//! The rotation that goes before TurboQuant codes: rounds, each signs of a fixed random pattern and then a Hadamard
//! transform (Ailon & Chazelle 2009). After one round sparse vectors have a few distinct values, after two a vector of one
//! element still has multiples of one step, whose codes err by a quarter more at 64 elements; three rounds act as a random
//! rotation does.
//!
//! A head of `m · 2ᵏ` elements, `m` odd, is transformed by a Hadamard matrix over the `2ᵏ` and a Hartley matrix over the
//! `m`: `H[a, b] = (cos + sin)(2πab/m) / √m`, which is symmetric and its own inverse, as the Hadamard matrix is.

/// Largest odd part of a head's size that is rotated.
pub const LARGEST_ODD: usize = 15;

/// How many signed transforms a rotation is made of.
pub const ROUNDS: u32 = 3;

/// Begins the pattern of signs: of some hundred numbers tried, one with which every vector of one element, and the vector
/// of equal elements, is coded as well as a random one.
const PATTERN: u32 = 40;

/// The sizes of the two transforms of a head: the odd part, the power of two.
///
/// # Errors
/// A head whose odd part is too large.
pub fn parts(dim: usize) -> Result<(usize, usize), String> {
    let power = 1 << dim.max(1).trailing_zeros();
    let odd = dim / power;
    if odd == 0 || odd > LARGEST_ODD {
        return Err(format!(
            "heads of {dim} elements are not rotated: expected an odd number up to {LARGEST_ODD} times a power of two"
        ));
    }
    Ok((odd, power))
}

/// Whether element `i` changes its sign in a round: the top bit of a mixed number (the finaliser "lowbias32").
pub fn flips(round: u32, i: usize) -> bool {
    let mut x = (i as u32).wrapping_add(round.wrapping_mul(0x9e37_79b9)).wrapping_add(PATTERN);
    x = (x ^ x >> 16).wrapping_mul(0x7feb_352d);
    x = (x ^ x >> 15).wrapping_mul(0x846c_a68b);
    (x ^ x >> 16) >> 31 == 1
}

/// Element (`a`, `b`) of the Hartley matrix of size `m`.
pub fn hartley(m: usize, a: usize, b: usize) -> f32 {
    let angle = std::f64::consts::TAU * ((a * b) % m) as f64 / m as f64;
    ((angle.cos() + angle.sin()) / (m as f64).sqrt()) as f32
}

/// The symmetric transform of a head, in place. Element `(a, b)` is at `a · 2ᵏ + b`.
fn transform(x: &mut [f32], (odd, power): (usize, usize)) {
    let mut half = 1;
    while half < power {
        for start in (0..x.len()).step_by(2 * half) {
            for i in start..start + half {
                (x[i], x[i + half]) = (x[i] + x[i + half], x[i] - x[i + half]);
            }
        }
        half *= 2;
    }
    let scale = 1.0 / (power as f32).sqrt();
    for b in 0..power {
        let column: Vec<f32> = (0..odd).map(|a| x[a * power + b]).collect();
        for a in 0..odd {
            let sum: f32 = (0..odd).map(|c| hartley(odd, a, c) * column[c]).sum();
            x[a * power + b] = scale * sum;
        }
    }
}

/// Rotates a head in place, or back.
///
/// # Errors
/// As [`parts`].
pub fn rotate(x: &mut [f32], inverse: bool) -> Result<(), String> {
    let parts = parts(x.len())?;
    let flip = |x: &mut [f32], round: u32| {
        x.iter_mut().enumerate().filter(|(i, _)| flips(round, *i)).for_each(|(_, x)| *x = -*x)
    };
    for i in 0..ROUNDS {
        if inverse {
            transform(x, parts);
            flip(x, ROUNDS - 1 - i);
        } else {
            flip(x, i);
            transform(x, parts);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rotation_keeps_lengths_and_has_an_inverse() {
        for dim in [1, 2, 6, 16, 40, 64, 80, 96, 112, 128, 192, 240, 256, 512, 576] {
            let x: Vec<f32> = (0..dim).map(|i| ((i * 37 + 11) % 101) as f32 / 50.0 - 1.0).collect();
            let mut y = x.clone();
            rotate(&mut y, false).expect("a size that rotates");
            let length = |x: &[f32]| x.iter().map(|x| x * x).sum::<f32>();
            assert!((length(&x) - length(&y)).abs() < 1e-4 * length(&x), "{dim}");
            assert!(dim < 6 || x.iter().zip(&y).any(|(x, y)| (x - y).abs() > 0.1));
            rotate(&mut y, true).expect("a size that rotates");
            assert!(x.iter().zip(&y).all(|(x, y)| (x - y).abs() < 1e-4), "{dim}");
        }
        assert!(rotate(&mut [0.0; 34], false).is_err());
    }

    #[test]
    fn signs_are_even_and_rounds_differ() {
        let flipped = |round| (0..512).filter(|i| flips(round, *i)).count();
        assert!((200..312).contains(&flipped(0)) && (200..312).contains(&flipped(1)));
        let same = (0..512).filter(|i| flips(0, *i) == flips(1, *i)).count();
        assert!((200..312).contains(&same));
    }
}
