//! Facts of exact mathematics that each op of the host reference must show.

use std::rc::Rc;

use swiftlm_ir::graph::RopeTable;
use swiftlm_ir::ops::{RopeLayout, Routing};
use swiftlm_ir::quant::Format;
use swiftlm_ir::reference::attend::{Attention, History, attend, softmax};
use swiftlm_ir::reference::heads::HeadMatrices;
use swiftlm_ir::reference::moe::{Experts, combine, expert_linear, route_ids, route_weights};
use swiftlm_ir::reference::state::Part;
use swiftlm_ir::reference::{HostState, Step, Token, dense, norm, rope};
use swiftlm_ir::rounding::Rounding;
use swiftlm_ir::ty::StateType;

/// Numbers in [-1, 1) from a multiplicative hash.
fn noise(n: usize, seed: u32) -> Vec<f32> {
    let hash = |i: u32| (i.wrapping_mul(2_654_435_761) ^ seed.wrapping_mul(40_503)).wrapping_mul(2_246_822_519);
    (0..n as u32).map(|i| hash(i + 1) as f32 / 2_147_483_648.0 - 1.0).collect()
}

#[track_caller]
fn close(a: &[f32], b: &[f32], tolerance: f32) {
    assert_eq!(a.len(), b.len());
    for (i, (a, b)) in a.iter().zip(b).enumerate() {
        assert!((a - b).abs() <= tolerance, "element {i}: {a} is not {b}");
    }
}

fn tokens(sequence: u32, positions: std::ops::Range<u32>) -> Vec<Token> {
    positions.map(|position| Token { id: 0, sequence, position }).collect()
}

#[test]
fn embedding_picks_rows_and_scales_them() {
    let w = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
    assert_eq!(dense::embed(&[2, 0, 2], &w, 2, 2.0), Ok(vec![10.0, 12.0, 2.0, 4.0, 10.0, 12.0]));
    assert!(dense::embed(&[3], &w, 2, 1.0).is_err_and(|e| e.contains("id 3 has no row in a table of 3 rows")));
}

#[test]
fn a_product_is_its_definition_and_keeps_what_f32_would_lose() {
    // [1 2; 3 4] · [5 6; 7 8]ᵀ.
    assert_eq!(dense::linear(&[1.0, 2.0, 3.0, 4.0], &[5.0, 6.0, 7.0, 8.0], 2), [17.0, 23.0, 39.0, 53.0]);
    // 2²⁴ + 1 - 2²⁴: a sum in f32 gives 0.
    assert_eq!(dense::linear(&[16_777_216.0, 1.0, -16_777_216.0], &[1.0, 1.0, 1.0], 3), [1.0]);
}

#[test]
fn sums_products_and_views() {
    assert_eq!(dense::bias(&[1.0, 2.0, 3.0, 4.0], &[10.0, 20.0]), [11.0, 22.0, 13.0, 24.0]);
    assert_eq!(dense::slice(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 3, 1, 2), [2.0, 3.0, 5.0, 6.0]);
    assert_eq!(dense::rows(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 2, &[2, 0]), [5.0, 6.0, 1.0, 2.0]);
}

#[test]
fn activations_are_what_their_identities_say() {
    for x in [-20.0, -3.0, -0.5, 0.0, 0.25, 1.0, 7.5, 40.0f64] {
        // σ(x) + σ(-x) = 1; silu(x) - silu(-x) = x; gelu(x) - gelu(-x) = x.
        assert!((dense::sigmoid(x) + dense::sigmoid(-x) - 1.0).abs() < 1e-15);
        assert!((dense::silu(x) - dense::silu(-x) - x).abs() < 1e-12);
        assert!((dense::gelu_tanh(x) - dense::gelu_tanh(-x) - x).abs() < 1e-12);
        // tanh(x) = 2σ(2x) - 1.
        let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x);
        assert!((dense::gelu_tanh(x) - x * dense::sigmoid(2.0 * inner)).abs() < 1e-12);
    }
    // σ(ln 3) = 3/4.
    assert!((dense::sigmoid(3f64.ln()) - 0.75).abs() < 1e-15);
}

#[test]
fn rounding_goes_to_even_halves() {
    // Between 2048 and 4096 halves are 2 apart.
    assert_eq!(
        dense::round(&[2049.0, 2051.0, 2050.5, 1e-9, 70000.0], Rounding::F16),
        Ok(vec![2048.0, 2052.0, 2050.0, 0.0, f32::INFINITY])
    );
}

#[test]
fn rounding_to_bfloat16_keeps_eight_bits_a_term() {
    // Between 256 and 512 bfloat16 are 2 apart; what one leaves of 257.5 is 1.5 below the even one above.
    let x = [257.0, 259.0, 257.5, 257.503, -1.0];
    assert_eq!(dense::round(&x, Rounding::Bf16 { terms: 1 }), Ok(vec![256.0, 260.0, 258.0, 258.0, -1.0]));
    let two = dense::round(&x, Rounding::Bf16 { terms: 2 }).expect("any row can be rounded");
    assert_eq!(two[..3], [257.0, 259.0, 257.5]);
    assert!((two[3] - x[3]).abs() <= 0.5 * 2f32.powi(-9), "{}", two[3]);
}

#[test]
fn rounding_to_whole_numbers_goes_by_groups() {
    let int8 = Rounding::Int { bits: 8, group: 32 };
    // The first group's scale is 1, the second's is 1/127.
    let mut x = vec![0.0; 64];
    (x[0], x[1], x[2], x[3], x[4]) = (127.0, 0.5, 1.5, -2.5, 63.4);
    (x[32], x[33]) = (-1.0, 0.5);
    let mut want = vec![0.0; 64];
    (want[0], want[1], want[2], want[3], want[4]) = (127.0, 0.0, 2.0, -2.0, 63.0);
    (want[32], want[33]) = (-1.0, (64.0f64 / 127.0) as f32);
    assert_eq!(dense::round(&x, int8), Ok(want));
    assert_eq!(dense::round(&[0.0; 32], int8), Ok(vec![0.0; 32]), "a group of zeros has a scale");
    assert!(dense::round(&[0.0; 33], int8).is_err());
    // Steps of 16 bits: the scale is 2 where the largest is twice 255 · 127 + 127.
    let mut x = vec![0.0; 32];
    (x[0], x[1], x[2], x[3]) = (65024.0, 3.0, 4.9, -0.9);
    let mut want = vec![0.0; 32];
    (want[0], want[1], want[2], want[3]) = (65024.0, 4.0, 4.0, 0.0);
    assert_eq!(dense::round(&x, Rounding::Int { bits: 16, group: 32 }), Ok(want));
}

#[test]
fn the_largest_wins_and_of_equals_the_first() {
    let nan = f32::NAN;
    let x = [1.0, 3.0, 3.0, -1.0, -1.0, -2.0, nan, nan, -5.0, nan, nan, nan, 0.0, -0.0, -1.0];
    assert_eq!(dense::arg_max(&x, 3), [1, 0, 2, 0, 0]);
    assert_eq!(route_ids(&[0.5, 2.0, 0.5, 2.0, nan], 5, 5, (1, 1)), [1, 3, 0, 2, 4]);
}

#[test]
fn groups_are_kept_by_their_two_best() {
    // The best of all is in a group whose two best come to less.
    let scores = [9.0, 0.0, 1.0, 5.0, 6.0, 0.0, 4.0, 4.0, 4.0, 1.0, 2.0, 3.0];
    assert_eq!(route_ids(&scores, 12, 2, (4, 1)), [4, 3]);
    assert_eq!(route_ids(&scores, 12, 3, (4, 2)), [0, 4, 3]);
    assert_eq!(route_ids(&scores, 12, 2, (1, 1)), [0, 4]);
    // Of equal groups the first.
    assert_eq!(route_ids(&[1.0, 2.0, 2.0, 1.0], 4, 2, (2, 1)), [1, 0]);
}

#[test]
fn a_constant_row_normalises_to_its_sign() {
    for c in [-3.0f32, 0.001, 7.0] {
        let y = norm::rms_norm(&[c; 8], 8, &[1.0; 8], 0.0, 0.0);
        close(&y, &[c.signum(); 8], 1e-7);
    }
    // With eps: c / √(c² + eps); 3 / √(9 + 16) = 0.6; the weight gains its offset.
    close(&norm::rms_norm(&[3.0; 4], 4, &[1.0; 4], 16.0, 0.0), &[0.6; 4], 1e-7);
    close(&norm::rms_norm(&[3.0; 4], 4, &[1.0; 4], 16.0, 1.0), &[1.2; 4], 1e-7);
    // Of a longer weight each head in turn has a part.
    let heads = norm::rms_norm(&[3.0; 8], 4, &[1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0], 16.0, 0.0);
    close(&heads, &[0.6, 0.6, 0.6, 0.6, 1.2, 1.2, 1.2, 1.2], 1e-7);
    // Without eps the row's scale does not matter, and the mean square of the result is 1.
    let x = noise(64, 1);
    let scaled: Vec<f32> = x.iter().map(|x| x * 4.0).collect();
    let y = norm::rms_norm(&x, 64, &[1.0; 64], 0.0, 0.0);
    close(&norm::rms_norm(&scaled, 64, &[1.0; 64], 0.0, 0.0), &y, 1e-6);
    assert!((y.iter().map(|y| y * y).sum::<f32>() / 64.0 - 1.0).abs() < 1e-6);
}

fn frequencies(dim: usize) -> RopeTable {
    let inverse_frequencies = (0..dim / 2).map(|i| 10_000f64.powf(-2.0 * i as f64 / dim as f64)).collect();
    RopeTable { inverse_frequencies, magnitude: 1.0 }
}

/// One head at a position.
fn turned(x: &[f32], position: u32, dim: usize, layout: RopeLayout) -> Vec<f32> {
    let of = tokens(0, position..position + 1);
    let table = rope::table(&frequencies(dim), &Step { tokens: &of, rows: &[] });
    rope::rope(x, (1, x.len()), table.floats().expect("a table is f32"), (0, dim), layout)
}

#[test]
fn rotation_keeps_lengths_and_sees_only_distances() {
    let (q, k) = (noise(16, 2), noise(16, 3));
    for layout in [RopeLayout::Half, RopeLayout::Interleaved] {
        assert_eq!(turned(&q, 0, 16, layout), q);
        for position in [1, 77, 4000] {
            let y = turned(&q, position, 16, layout);
            assert!((dense::dot(&y, &y) - dense::dot(&q, &q)).abs() < 1e-5);
            // Positions 5 apart, wherever they are.
            let near = dense::dot(&turned(&q, 5, 16, layout), &turned(&k, 0, 16, layout));
            let far = dense::dot(&turned(&q, position + 5, 16, layout), &turned(&k, position, 16, layout));
            assert!((near - far).abs() < 1e-5, "{near} {far}");
        }
    }
}

#[test]
fn rotation_pairs_by_layout_and_copies_the_rest() {
    // Frequencies π/2 and 0: the first pair goes a quarter turn, the second stays.
    let table = RopeTable { inverse_frequencies: vec![std::f64::consts::FRAC_PI_2, 0.0], magnitude: 1.0 };
    let of = tokens(0, 1..2);
    let table = rope::table(&table, &Step { tokens: &of, rows: &[] });
    let table = table.floats().expect("a table is f32");
    let x = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
    close(&rope::rope(&x, (1, 6), table, (0, 4), RopeLayout::Half), &[-3.0, 2.0, 1.0, 4.0, 5.0, 6.0], 1e-6);
    close(&rope::rope(&x, (1, 6), table, (0, 4), RopeLayout::Interleaved), &[-2.0, 1.0, 3.0, 4.0, 5.0, 6.0], 1e-6);
    close(&rope::rope(&x, (1, 6), table, (2, 4), RopeLayout::Interleaved), &[1.0, 2.0, -4.0, 3.0, 5.0, 6.0], 1e-6);
    close(&rope::rope(&x, (1, 6), table, (1, 4), RopeLayout::Half), &[1.0, -4.0, 3.0, 2.0, 5.0, 6.0], 1e-6);
}

#[test]
fn a_table_holds_cosines_then_sines_times_the_magnitude() {
    let table = RopeTable { inverse_frequencies: vec![std::f64::consts::FRAC_PI_3, 0.0], magnitude: 2.0 };
    let of = tokens(0, 1..2);
    let rows = rope::table(&table, &Step { tokens: &of, rows: &[] });
    close(rows.floats().expect("a table is f32"), &[1.0, 2.0, 3f32.sqrt(), 0.0], 1e-6);
}

#[test]
fn softmax_of_logarithms_is_their_share() {
    let shares = softmax(&[1f64.ln(), 2f64.ln(), 5f64.ln()]);
    assert!(shares.iter().zip([0.125, 0.25, 0.625]).all(|(a, b)| (a - b).abs() < 1e-15));
    // Adding a constant changes nothing, however large.
    let moved = softmax(&[1000.0, 1000.0 + 2f64.ln(), 1000.0 + 5f64.ln()]);
    assert!(moved.iter().zip(&shares).all(|(a, b)| (a - b).abs() < 1e-12));
}

/// A state of `heads` × `dim` with the keys and values of `n` tokens of sequence 0 in it.
fn state(heads: usize, dim: usize, n: u32, keys: &[f32], values: &[f32], format: Format) -> HostState {
    let mut state =
        HostState::new(&StateType::Paged { window: 0, heads, dim, k: format, v: format, latent: None, archive: None });
    let of = tokens(0, 0..n);
    state.append(keys, values, &Step { tokens: &of, rows: &[] }).expect("positions follow on");
    state
}

/// Keys and values of a state.
fn histories(s: &HostState) -> [History; 2] {
    let state = Rc::new(s.clone());
    [Part::Keys, Part::Values].map(|part| History { state: Rc::clone(&state), part, turned: false, matrices: None })
}

fn attend_at(q: &[f32], position: u32, a: &Attention, s: &HostState) -> Vec<f32> {
    let (of, [keys, values]) = (tokens(0, position..position + 1), histories(s));
    attend(q, a, (&keys, &values), None, &Step { tokens: &of, rows: &[] }).expect("the position is held")
}

/// A sink takes weight from every value: the result is that without, times σ(log Σ e^score − sink).
#[test]
fn a_sink_shares_the_softmax_and_has_no_value() {
    let (heads, dim, n) = (2, 4, 5);
    let (q, k, v) = (noise(heads * dim, 1), noise(n * dim, 2), noise(n * dim, 3));
    let s = state(1, dim, n as u32, &k, &v, Format::F32);
    let a = Attention { heads, scale: 0.7, window: 3, cap: 0.0 };
    let (of, [keys, values]) = (tokens(0, 4..5), histories(&s));
    let sinks = [0.4, -1.5];
    let step = Step { tokens: &of, rows: &[] };
    let got = attend(&q, &a, (&keys, &values), Some(&sinks), &step).expect("the position is held");
    let plain = attend_at(&q, 4, &a, &s);
    let expected: Vec<f32> = (0..heads * dim)
        .map(|i| {
            let query = &q[i / dim * dim..][..dim];
            let scores = (2..n).map(|j| 0.7 * dense::dot(query, &k[j * dim..][..dim]));
            let total = scores.map(f64::exp).sum::<f64>().ln();
            (f64::from(plain[i]) * dense::sigmoid(total - f64::from(sinks[i / dim]))) as f32
        })
        .collect();
    close(&got, &expected, 1e-6);
    // Without them the numbers are others.
    assert!(got.iter().zip(&plain).any(|(a, b)| (a - b).abs() > 0.05), "{got:?}");
}

#[test]
fn attention_is_the_formula_summed_directly() {
    let (heads, kv_heads, dim, n) = (4, 2, 8, 11);
    let (q, k, v) = (noise(heads * dim, 4), noise(n * kv_heads * dim, 5), noise(n * kv_heads * dim, 6));
    let s = state(kv_heads, dim, n as u32, &k, &v, Format::F32);
    for (position, window, cap) in [(10, 0, 0.0), (10, 3, 0.0), (4, 0, 0.2), (4, 100, 0.0), (0, 1, 2.0), (10, 5, 1.0)] {
        let a = Attention { heads, scale: 0.3, window, cap };
        let mut expected = vec![];
        for h in 0..heads {
            let seen: Vec<usize> = (0..=position).filter(|j| window == 0 || position - j < window).collect();
            let score = |j: usize| -> f64 {
                let at = |d: usize| f64::from(k[(j * kv_heads + h / 2) * dim + d]);
                let score = 0.3 * (0..dim).map(|d| f64::from(q[h * dim + d]) * at(d)).sum::<f64>();
                if cap > 0.0 { cap * (score / cap).tanh() } else { score }
            };
            let total: f64 = seen.iter().map(|j| score(*j).exp()).sum();
            for d in 0..dim {
                let value = |j: usize| f64::from(v[(j * kv_heads + h / 2) * dim + d]);
                expected.push((seen.iter().map(|j| score(*j).exp() * value(*j)).sum::<f64>() / total) as f32);
            }
        }
        close(&attend_at(&q, position as u32, &a, &s), &expected, 1e-6);
    }
}

#[test]
fn attention_to_equal_keys_is_the_mean_and_to_one_key_its_value() {
    let values = noise(5 * 4, 7);
    let s = state(1, 4, 5, &[0.5; 20], &values, Format::F32);
    let mean: Vec<f32> = (0..4).map(|d| (0..5).map(|j| values[j * 4 + d]).sum::<f32>() / 5.0).collect();
    close(&attend_at(&noise(4, 8), 4, &Attention { heads: 1, scale: 1.0, window: 0, cap: 0.0 }, &s), &mean, 1e-6);
    let own = attend_at(&noise(4, 8), 3, &Attention { heads: 1, scale: 1.0, window: 1, cap: 0.0 }, &s);
    assert_eq!(own, values[12..16]);
}

/// Values are the first elements of keys, and matrices of heads make of either what they make of it alone.
#[test]
fn a_latent_is_key_and_value() {
    let (heads, latent, rotated) = (2, 3, 2);
    let ty = StateType::Paged {
        window: 0,
        heads: 1,
        dim: latent + rotated,
        k: Format::F32,
        v: Format::F32,
        latent: Some(latent),
        archive: None,
    };
    let mut s = HostState::new(&ty);
    let (c, r, of) = (noise(4 * latent, 1), noise(4 * rotated, 2), tokens(0, 0..4));
    s.append(&c, &r, &Step { tokens: &of, rows: &[] }).expect("positions follow on");
    assert_eq!(s.read(0, Part::Keys, (2, 0), 3), [&c[6..9], &r[4..6]].concat());
    assert_eq!(s.read(0, Part::Values, (2, 0), 3), &c[6..9]);

    let weight: Vec<f32> = noise(heads * 7 * latent, 3);
    let of_head =
        |first, len| HeadMatrices { weight: weight.clone().into(), cols: latent, heads, first, len, transposed: false };
    let (wk, wv) = (of_head(0, 4), of_head(4, 3));
    let [keys, values] = histories(&s);
    let (keys, values) = (History { matrices: Some(wk), ..keys }, History { matrices: Some(wv), ..values });
    let (q, last) = (noise(heads * (4 + rotated), 4), tokens(0, 3..4));
    let a = Attention { heads, scale: 0.5, window: 0, cap: 0.0 };
    let got = attend(&q, &a, (&keys, &values), None, &Step { tokens: &last, rows: &[] }).expect("the history is there");

    // Every head's keys and values written out.
    let row = |h: usize, i: usize| &weight[(h * 7 + i) * latent..][..latent];
    let of_latent = |h: usize, i: usize, j: usize| dense::dot(row(h, i), &c[j * latent..][..latent]) as f32;
    let key = |h: usize, j: usize| {
        [(0..4).map(|i| of_latent(h, i, j)).collect(), r[j * rotated..][..rotated].to_vec()].concat()
    };
    let want: Vec<f32> = (0..heads)
        .flat_map(|h| {
            let q = &q[h * 6..][..6];
            let weights = softmax(&(0..4).map(|j| 0.5 * dense::dot(q, &key(h, j))).collect::<Vec<_>>());
            let value =
                |i: usize| weights.iter().enumerate().map(|(j, w)| w * f64::from(of_latent(h, 4 + i, j))).sum::<f64>();
            (0..3).map(|i| value(i) as f32).collect::<Vec<_>>()
        })
        .collect();
    close(&got, &want, 1e-6);
}

#[test]
fn histories_are_their_sequences_own_and_end_where_they_end() {
    let mut s = HostState::new(&StateType::Paged {
        window: 0,
        heads: 1,
        dim: 1,
        k: Format::F32,
        v: Format::F32,
        latent: None,
        archive: None,
    });
    let both = [tokens(3, 0..2), tokens(8, 0..1)].concat();
    s.append(&[1.0; 3], &[10.0, 20.0, 30.0], &Step { tokens: &both, rows: &[] }).expect("positions follow on");
    assert_eq!((s.read(3, Part::Values, (1, 0), 1), s.read(8, Part::Values, (0, 0), 0)), (&[20.0][..], &[30.0][..]));
    let of = tokens(8, 1..2);
    let step = Step { tokens: &of, rows: &[] };
    let a = Attention { heads: 1, scale: 1.0, window: 0, cap: 0.0 };
    let [keys, values] = histories(&s);
    let error = attend(&[1.0], &a, (&keys, &values), None, &step).expect_err("position 1 is not held");
    assert_eq!(error, "`attend`: sequence 8 holds 1 tokens: none at position 1");
    let gap = tokens(8, 2..3);
    let error = s.append(&[1.0], &[1.0], &Step { tokens: &gap, rows: &[] }).expect_err("position 1 is missing");
    assert_eq!(error, "`kv.append!`: sequence 8: expected position 1, got 2");
}

#[test]
fn states_hold_what_their_format_can() {
    let third = 1.0 / 3.0;
    let held = |format| state(1, 1, 1, &[third], &[third], format).read(0, Part::Keys, (0, 0), 0)[0];
    assert_eq!(held(Format::F32), third);
    // 1/3 has 11 bits 0x3555 as a half and 8 bits 0x3eab as a bfloat.
    assert_eq!(held(Format::F16), half::f16::from_bits(0x3555).to_f32());
    assert_eq!(held(Format::BF16), half::bf16::from_bits(0x3eab).to_f32());
}

#[test]
fn routing_weights_are_shares_of_all_or_of_the_chosen() {
    let scores: Vec<f32> = [1f32, 2.0, 5.0, 8.0].map(f32::ln).to_vec();
    let ids = route_ids(&scores, 4, 2, (1, 1));
    assert_eq!(ids, [3, 2]);
    let weights = |routing, normalize| route_weights(&scores, &ids, (4, 2), routing, normalize).expect("experts exist");
    close(&weights(Routing::Softmax, false), &[0.5, 0.3125], 1e-6);
    close(&weights(Routing::Softmax, true), &[8.0 / 13.0, 5.0 / 13.0], 1e-6);
    // σ(ln x) = x / (1 + x).
    close(&weights(Routing::Sigmoid, false), &[8.0 / 9.0, 5.0 / 6.0], 1e-6);
    close(&weights(Routing::Sigmoid, true), &[16.0 / 31.0, 15.0 / 31.0], 1e-6);
    assert!(route_weights(&scores, &[4], (4, 1), Routing::Softmax, false).is_err());
}

#[test]
fn an_expert_is_a_linear_over_its_own_rows() {
    let (experts, inputs, outputs) = (3, 4, 2);
    let (x, w) = (noise(2 * inputs, 9), noise(experts * outputs * inputs, 10));
    let of = |e: usize| &w[e * outputs * inputs..(e + 1) * outputs * inputs];
    let shared = Experts { experts, top_k: 2, inputs, x_per_rank: false };
    let y = expert_linear(&x, &[2, 0, 1, 1], &w, &shared).expect("experts exist");
    let rows: Vec<Vec<f32>> = [(0, 2), (0, 0), (1, 1), (1, 1)]
        .map(|(t, e)| dense::linear(&x[t * inputs..(t + 1) * inputs], of(e), inputs))
        .into();
    assert_eq!(y, rows.concat());
    let own = Experts { x_per_rank: true, ..shared };
    assert_eq!(
        expert_linear(&x, &[1, 2], &w, &own),
        Ok([dense::linear(&x[..4], of(1), 4), dense::linear(&x[4..], of(2), 4)].concat())
    );
    assert!(expert_linear(&x, &[0, 3], &w, &own).is_err_and(|e| e.contains("no expert 3 among 3")));
}

#[test]
fn ranks_are_combined_by_weight_and_in_order() {
    assert_eq!(combine(&[1.0, 2.0, 10.0, 20.0], &[0.5, 0.25], 2, 2), [3.0, 6.0]);
    // In f64, 2⁵³ + 1 - 2⁵³ is 0, but 2⁵³ - 2⁵³ + 1 is 1: the order of the ranks shows.
    let big = 9_007_199_254_740_992f32;
    assert_eq!(combine(&[big, 1.0, -big], &[1.0; 3], 3, 1), [0.0]);
    assert_eq!(combine(&[big, -big, 1.0], &[1.0; 3], 3, 1), [1.0]);
}

#[test]
fn time_steps_are_positive_and_bounded() {
    let steps = dense::time_step(&[0.0, -40.0, 40.0, 1.0], &[0.0, 0.0], (1e-3, 10.0));
    close(&steps, &[2f32.ln(), 1e-3, 10.0, (1.0 + 1f32.exp()).ln()], 1e-6);
}

#[test]
fn a_part_of_each_row_is_scaled() {
    let x = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
    assert_eq!(dense::scale_part(&x, 3, (1, 1), -2.0), [1.0, -4.0, 3.0, 4.0, -10.0, 6.0]);
}
