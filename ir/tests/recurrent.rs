//! Recurrent ops of the host reference against matrices written out, and against what the formulas come to in cases that
//! can be told without them.

use swiftlm_ir::reference::{HostState, Step, Token};
use swiftlm_ir::ty::{Recurrent, StateType};

const SIZES: Recurrent = Recurrent { columns: 2, channels: 3, heads: 4, key: 3, value: 2 };

fn state() -> HostState {
    HostState::new(&StateType::Recurrent(SIZES))
}

fn tokens(sequence: u32, positions: std::ops::Range<u32>) -> Vec<Token> {
    positions.map(|position| Token { id: 0, sequence, position }).collect()
}

fn noise(n: usize, seed: u32) -> Vec<f32> {
    let mut x = seed.wrapping_mul(0x9e37_79b9) | 1;
    let mut next = || {
        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (x >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

fn close(got: &[f32], expected: &[f32]) {
    assert_eq!(got.len(), expected.len());
    let apart = got.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(apart < 1e-5, "{apart}: {got:?} is not {expected:?}");
}

/// A step of tokens, none of which wants logits.
fn step(tokens: &[Token]) -> Step<'_> {
    Step { tokens, rows: &[] }
}

#[test]
fn a_convolution_sees_its_own_sequence_and_nothing_before_its_start() {
    let (weight, mut s) = (noise(9, 1), state());
    let (first, second) = (noise(5 * 3, 2), noise(2 * 3, 3));
    // Two steps; in the second both sequences take part.
    let of = tokens(7, 0..3);
    s.push_inputs(&first[..9], &step(&of)).expect("positions follow on");
    let mut got = s.convolve(&weight, &step(&of)).expect("inputs are there");
    let both = [tokens(4, 0..2), tokens(7, 3..5)].concat();
    s.push_inputs(&[&second[..], &first[9..]].concat(), &step(&both)).expect("positions follow on");
    let y = s.convolve(&weight, &step(&both)).expect("inputs are there");
    got.extend(&y[6..]);
    let expected = |x: &[f32]| -> Vec<f32> {
        let n = x.len() / 3;
        let at = |p: usize, back: usize, c: usize| if back > p { 0.0 } else { x[(p - back) * 3 + c] };
        let of = |(p, c): (usize, usize)| (0..3).map(|j| weight[c * 3 + j] * at(p, 2 - j, c)).sum();
        (0..n).flat_map(|p| (0..3).map(move |c| (p, c))).map(of).collect()
    };
    close(&got, &expected(&first));
    close(&y[..6], &expected(&second));
}

/// `S (α (I − β k kᵀ)) + β v kᵀ`, matrices written out, in f32.
#[test]
fn the_gated_delta_rule_is_its_equation() {
    let (n, key_heads) = (6, 2);
    let Recurrent { heads, key, value, .. } = SIZES;
    let (q, k, v) = (noise(n * key_heads * key, 4), noise(n * key_heads * key, 5), noise(n * heads * value, 6));
    let unit = |x: Vec<f32>| -> Vec<f32> { x.iter().map(|x| x.abs()).collect() };
    let (alpha, beta) = (unit(noise(n * heads, 7)), unit(noise(n * heads, 8)));
    let mut expected = vec![];
    let mut memories = vec![vec![vec![0.0f32; key]; value]; heads];
    for t in 0..n {
        for (h, memory) in memories.iter_mut().enumerate() {
            let at = (t * key_heads + h / 2) * key;
            let (q, k, v) = (&q[at..at + key], &k[at..at + key], &v[(t * heads + h) * value..]);
            let (alpha, beta) = (alpha[t * heads + h], beta[t * heads + h]);
            let decay = |i: usize, j: usize| alpha * (f32::from(u8::from(i == j)) - beta * k[i] * k[j]);
            let old = memory.clone();
            for (row, new) in memory.iter_mut().enumerate() {
                for (j, s) in new.iter_mut().enumerate() {
                    *s = (0..key).map(|i| old[row][i] * decay(i, j)).sum::<f32>() + beta * v[row] * k[j];
                }
                expected.push(0.5 * new.iter().zip(q).map(|(s, q)| s * q).sum::<f32>());
            }
        }
    }
    for cuts in [vec![0, 6], vec![0, 1, 4, 6]] {
        let (mut s, mut got) = (state(), vec![]);
        for cut in cuts.windows(2) {
            let (from, to) = (cut[0], cut[1]);
            let of = tokens(1, from as u32..to as u32);
            let rows = |x: &[f32]| x[from * (x.len() / n)..to * (x.len() / n)].to_vec();
            let (k, v, alpha, beta) = (rows(&k), rows(&v), rows(&alpha), rows(&beta));
            s.take_in([&k, &v, &alpha, &beta], &step(&of)).expect("positions follow on");
            got.extend(s.recall(&rows(&q), 0.5, &step(&of)).expect("tokens were taken in"));
        }
        close(&got, &expected);
    }
}

/// With unit keys and β = 1 a value takes the place of what its key answered before, and other keys keep their answers.
#[test]
fn a_memory_answers_with_what_its_key_was_last_given() {
    let Recurrent { heads, value, .. } = SIZES;
    let mut s = state();
    let keys = [[1.0, 0.0, 0.0], [0.0, 0.6, 0.8], [1.0, 0.0, 0.0]];
    let of = tokens(0, 0..3);
    let values = noise(3 * heads * value, 9);
    let ones = vec![1.0; 3 * heads];
    s.take_in([keys.as_flattened(), &values, &ones, &ones], &step(&of)).expect("positions follow on");
    let asked = [keys[0], keys[1], keys[1]];
    let got = s.recall(asked.as_flattened(), 1.0, &step(&of)).expect("tokens were taken in");
    let row = heads * value;
    close(&got[..row], &values[..row]);
    close(&got[2 * row..], &values[row..2 * row]);
    let last = s.recall(&keys[0], 1.0, &step(&of[2..])).expect("tokens were taken in");
    close(&last, &values[2 * row..]);
}

#[test]
fn positions_must_follow_and_sequences_can_be_forgotten() {
    let mut s = state();
    let gap = tokens(3, 1..2);
    let error = s.push_inputs(&[0.0; 3], &step(&gap)).expect_err("position 0 is missing");
    assert_eq!(error, "`conv.append!`: sequence 3: expected position 0, got 1");
    let first = tokens(3, 0..1);
    s.push_inputs(&[1.0; 3], &step(&first)).expect("positions follow on");
    assert_eq!(s.len(3), 1);
    s.forget(3);
    assert!(s.is_empty());
    let error = s.append(&[0.0], &[0.0], &step(&first)).expect_err("there are no keys and values");
    assert!(error.contains("has no keys and values"), "{error}");
}

/// `S ← e^(−e^a Δ) S + Δ x Bᵀ`, `y = S C + d x`: what is left of each token, added up.
#[test]
fn a_selective_state_space_is_a_sum_over_tokens() {
    let (n, groups) = (6, 2);
    let Recurrent { heads, key, value, .. } = SIZES;
    let (b, c, x) = (noise(n * groups * key, 14), noise(n * groups * key, 15), noise(n * heads * value, 16));
    let dt: Vec<f32> = noise(n * heads, 17).iter().map(|dt| dt.abs()).collect();
    let (a, d) = (noise(heads, 18), noise(heads, 19));
    let mut expected = vec![];
    for t in 0..n {
        for h in 0..heads {
            let of = |rows: &[f32], t: usize| rows[(t * groups + h / 2) * key..][..key].to_vec();
            for row in 0..value {
                let at = |t: usize| x[(t * heads + h) * value + row];
                let kept = |s: usize| {
                    let passed: f32 = (s + 1..=t).map(|r| dt[r * heads + h]).sum();
                    (-a[h].exp() * passed).exp() * dt[s * heads + h] * at(s)
                };
                let overlap = |s: usize| of(&b, s).iter().zip(of(&c, t)).map(|(b, c)| b * c).sum::<f32>();
                expected.push((0..=t).map(|s| kept(s) * overlap(s)).sum::<f32>() + d[h] * at(t));
            }
        }
    }
    for cuts in [vec![0, 6], vec![0, 1, 4, 6]] {
        let (mut s, mut got) = (state(), vec![]);
        for cut in cuts.windows(2) {
            let (from, to) = (cut[0], cut[1]);
            let of = tokens(1, from as u32..to as u32);
            let rows = |x: &[f32]| x[from * (x.len() / n)..to * (x.len() / n)].to_vec();
            s.absorb([&rows(&b), &rows(&x), &rows(&dt)], &a, &step(&of)).expect("positions follow on");
            got.extend(s.emit(&rows(&c), &rows(&x), &d, &step(&of)).expect("tokens were taken in"));
        }
        close(&got, &expected);
    }
}
