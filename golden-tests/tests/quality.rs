//! What rounded activations do to the demo model: its own text, sampled without rounding, is read with and without.

use std::path::Path;

use swiftlm_golden_tests::fixture::Row;
use swiftlm_golden_tests::run::{Loaded, On, arg_max, compile, exact};
use swiftlm_ir::quant::{Affine, Archive, Float, Format};
use swiftlm_models::{Activations, ArchivePolicy, BuildOptions};

/// Sequences that are read side by side.
const SEQUENCES: usize = 30;
/// Positions of each.
const POSITIONS: usize = 360;
/// `<|endoftext|>`, which begins a text.
const START: u32 = 2041;

/// Numbers from 0 to 1 by a seed: xorshift.
struct Random(u64);

impl Random {
    fn unit(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Probabilities of a row of logits.
fn softmax(logits: &[f32]) -> Vec<f64> {
    let largest = logits.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b));
    let powers: Vec<f64> = logits.iter().map(|x| f64::from(x - largest).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(|p| p / sum).collect()
}

fn draw(chances: &[f64], mut at: f64) -> u32 {
    for (id, chance) in chances.iter().enumerate() {
        at -= chance;
        if at < 0.0 {
            return id as u32;
        }
    }
    chances.len() as u32 - 1
}

/// How two models differ over the positions that both read.
#[derive(Debug, Default)]
struct Difference {
    positions: usize,
    flips: usize,
    /// Largest lead, in probability, of the exact choice over the other at a flip.
    margin: f64,
    /// Sum of the Kullback-Leibler divergences of the exact distribution from the other.
    divergence: f64,
}

impl Difference {
    fn add(&mut self, exact: &[f32], other: &[f32]) {
        let (p, q) = (softmax(exact), softmax(other));
        let (a, b) = (arg_max(exact) as usize, arg_max(other) as usize);
        self.positions += 1;
        if a != b {
            self.flips += 1;
            self.margin = self.margin.max(p[a] - p[b]);
        }
        self.divergence +=
            p.iter().zip(&q).map(|(p, q)| if *p > 0.0 { p * (p / q.max(1e-300)).ln() } else { 0.0 }).sum::<f64>();
    }
}

fn demo() -> Row {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../server/demo/model");
    Row::checkpoint("demo", &dir)
}

fn difference(other: &BuildOptions) -> Difference {
    difference_of(&demo(), other)
}

fn difference_of(row: &Row, other: &BuildOptions) -> Difference {
    let load = |build: &BuildOptions| Loaded::new(row, compile(row, build, 64), On::Cpu.open(2), SEQUENCES);
    let (mut exact, mut other) = (load(&exact()), load(other));
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut ids = [START; SEQUENCES];
    let mut difference = Difference::default();
    for position in 0..POSITIONS as u32 {
        let tokens: Vec<_> = ids.iter().enumerate().map(|(s, id)| (s as u32, position, *id)).collect();
        let (a, b) = (exact.step(&tokens), other.step(&tokens));
        for (s, (a, b)) in a.iter().zip(&b).enumerate() {
            // All texts begin alike: their first position is one.
            if position > 0 || s == 0 {
                difference.add(a, b);
            }
            ids[s] = draw(&softmax(a), random.unit());
        }
    }
    difference
}

/// The project's bar for modes that are on by default, for a share of flips.
fn meets(d: &Difference, share: f64) -> bool {
    let positions = d.positions as f64;
    d.flips as f64 / positions <= share && d.margin < 0.05 && d.divergence / positions <= 1e-3
}

/// The bar's share of flips is 0.005. Sampled text of this model, where many words are equally likely, has 0.0126 if what
/// logits are made of is rounded to 8 bits, too: so it is not.
#[test]
fn int8_in_front_of_logits_is_no_default() {
    let d = difference(&BuildOptions { activations: Activations::int(8), ..exact() });
    assert!(d.positions >= 10_000);
    assert!(!meets(&d, 0.005) && meets(&d, 0.015), "{d:?}");
}

/// From the third page on, codes of 4 bits with one scale, 4.25 bits an element, are closer than rotated groups of codes
/// with scale and bias of 4.5; codes of 3 bits are within the bar for what is on by default.
#[test]
fn turboquant_is_closer_than_rotated_groups() {
    let of_bits = |k, v| {
        let archive = Archive { first: 32, last: 32, ..Archive::of_bits(k, v).expect("1 to 4 bits") };
        difference(&BuildOptions { archive: Some(ArchivePolicy { archive, boundary: 0, careful: false }), ..exact() })
    };
    let groups = Format::Affine(Affine { bits: 4, group: 64, scale: Float::F16 });
    let groups = difference(&BuildOptions { kv: (groups, groups), rotate: true, ..exact() });
    let (four, mixed, three) = (of_bits(4, 4), of_bits(4, 3), of_bits(3, 3));
    assert!(four.divergence < groups.divergence, "{four:?}, groups {groups:?}");
    assert!(four.divergence < mixed.divergence && mixed.divergence < three.divergence, "{mixed:?}, {three:?}");
    assert!(three.divergence / three.positions as f64 <= 1e-3, "{three:?}");
}

/// The same model in bfloat16: what rounding its inputs to bfloat16 does, and to sums of two in front of logits.
#[test]
fn bfloat16_in_layers_may_be_the_default() {
    let row = demo().in_bfloat16();
    let of = |activations| difference_of(&row, &BuildOptions { activations, ..exact() });
    let (default, fine) = (of(Activations::Int { bits: 8, head: 16 }), of(Activations::int(16)));
    assert!(default.positions >= 10_000);
    assert!(meets(&default, 0.005) && meets(&fine, 0.0005), "{default:?}, {fine:?}");
    assert!(
        default.divergence > 1e3 * fine.divergence && fine.divergence > 0.0,
        "rounding takes place: {default:?}, {fine:?}"
    );
}

/// What the CPU computes with unless flags say otherwise, and what it computes with as `--precision fine`.
#[test]
fn int8_in_layers_may_be_the_default() {
    let of = |activations| difference(&BuildOptions { activations, ..exact() });
    let (default, fine) = (of(Activations::Int { bits: 8, head: 16 }), of(Activations::int(16)));
    assert!(default.positions >= 10_000);
    assert!(meets(&default, 0.005) && meets(&fine, 0.0005), "{default:?}, {fine:?}");
    assert!(default.divergence > 1e3 * fine.divergence && fine.divergence > 0.0, "rounding takes place");
}
