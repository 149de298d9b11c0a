//! A format is written once: its interpretation on the builder is the host's decoding, bit for bit, and MLX's.

use safetensors::SafeTensors;
use swiftlm_ir::graph::WeightType;
use swiftlm_ir::kernel::builder::Kb;
use swiftlm_ir::kernel::{Access, KType, Length};
use swiftlm_ir::plan::Groups;
use swiftlm_ir::quant::decode::Encoded;
use swiftlm_ir::quant::{Affine, Float, Format};

use crate::harness::{Random, Weight, affine_formats, float_formats, floats, interpret, sizes};

/// Every element of a matrix as a kernel decodes it, by elements or by packs.
fn decoded(weight: &Weight, by_packs: bool) -> Vec<f32> {
    let WeightType { rows, cols, .. } = weight.ty;
    let kb = Kb::new("decode", 4, [1, 1, 1]);
    let encoded = Encoded::declare(&kb, "weight", weight.ty);
    let y = kb.arg("y", Access::ReadWrite, KType::F32, Length::Elements((rows * cols) as u64));
    kb.range(kb.lane(), kb.dim(rows), 4, |row| {
        if by_packs {
            kb.range(kb.u32(0), kb.dim(encoded.packs()), 1, |pack| {
                let values = encoded.pack(row, pack);
                let scalars = values.iter().flat_map(|v| (0..v.ty().width).map(|i| v.extract(i)));
                for (i, value) in scalars.enumerate() {
                    y.store(row.times(cols) + pack.times(encoded.pack_width()).plus(i), value);
                }
            });
        } else {
            kb.range(kb.u32(0), kb.dim(cols), 1, |col| {
                y.store(row.times(cols) + col, encoded.load(row, col));
            });
        }
    });
    let args = vec![weight.bytes.clone(), vec![0; 4 * rows * cols]];
    floats(&interpret(&kb.finish(), [Groups::fixed(1); 3], args, sizes(1, 1, 1))[1])
}

fn assert_same(name: &str, got: &[f32], want: &[f32]) {
    let differ = got.iter().zip(want).position(|(a, b)| a.to_bits() != b.to_bits());
    assert_eq!((got.len(), differ), (want.len(), None), "{name}");
}

#[test]
fn kernels_decode_as_the_host_does() {
    let mut random = Random(1);
    let plain = float_formats().into_iter().flat_map(|f| [(f, 3, 16), (f, 3, 12), (f, 5, 7), (f, 1, 1)]);
    let affine = affine_formats().into_iter().flat_map(|f| [(f, 3, 128), (f, 2, 384)]);
    let small = [(Format::Mxfp4, 3, 32), (Format::Mxfp4, 2, 96)];
    for (format, rows, cols) in plain.chain(affine).chain(small) {
        let weight = Weight::random(&mut random, format, rows, cols);
        let want: Vec<f32> = (0..rows * cols).map(|i| weight.at(i / cols, i % cols) as f32).collect();
        for by_packs in [false, true] {
            assert_same(&format!("{format} {rows}x{cols}, packs {by_packs}"), &decoded(&weight, by_packs), &want);
        }
    }
}

/// Every code under every scale, as the specification has them: scales are 2^(s - 127), codes ±{0, 0.5, 1, 1.5, 2, 3, 4, 6}.
#[test]
fn every_code_of_mxfp4_is_what_its_specification_says() {
    let table = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
    let (rows, cols) = (256, 32);
    let mut bytes: Vec<u8> = (0..rows * cols / 2).map(|i| (2 * i % 16 + (2 * i + 1) % 16 * 16) as u8).collect();
    bytes.extend((0..rows).map(|row| row as u8));
    let weight = Weight { ty: WeightType { format: Format::Mxfp4, rows, cols }, bytes };
    let [elements, packs] = [false, true].map(|by_packs| decoded(&weight, by_packs));
    for (i, (element, pack)) in elements.iter().zip(&packs).enumerate() {
        let (row, code) = (i / cols, i % 16);
        let sign = if code < 8 { 1.0 } else { -1.0 };
        let want = sign * table[code % 8] * 2f64.powi(row as i32 - 127);
        let host = weight.at(row, i % cols);
        if row == 255 {
            assert!(![host as f32, *element, *pack].iter().any(|x| x.is_finite()), "the scale 255 is no number");
            continue;
        }
        for got in [host as f32, *element, *pack] {
            assert_eq!(got, want as f32, "code {code} under the scale {row}");
        }
    }
}

#[test]
fn kernels_and_host_decode_as_mlx_does() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/families/quant/affine.safetensors");
    let file = std::fs::read(path).expect("the table is in the repository");
    let tables = SafeTensors::deserialize(&file).expect("the table is a safetensors file");
    for bits in [2u8, 3, 4, 5, 6, 8] {
        for group in [32u16, 64, 128] {
            let tensor = |part: &str| tables.tensor(&format!("{part}_{bits}_{group}")).expect("the table is complete");
            let dense = tensor("dense");
            let (rows, cols) = (dense.shape()[0], dense.shape()[1]);
            let format = Format::Affine(Affine::new(bits, group, Float::F32).expect("the format is supported"));
            let bytes = ["w", "scales", "biases"].iter().flat_map(|part| tensor(part).data().to_vec()).collect();
            let weight = Weight { ty: WeightType { format, rows, cols }, bytes };
            assert_eq!(weight.bytes.len(), format.layout(rows, cols).bytes);
            let want = floats(dense.data());
            for (name, got) in [
                ("elements", decoded(&weight, false)),
                ("packs", decoded(&weight, true)),
                ("host", (0..rows * cols).map(|i| weight.at(i / cols, i % cols) as f32).collect()),
            ] {
                // MLX may round scale · code + bias once where we round twice.
                for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                    let error = (got - want).abs();
                    assert!(error <= 2e-7 * (1.0 + want.abs()), "{bits} bits, {group}, {name}, {i}: {got} and {want}");
                }
            }
        }
    }
}
