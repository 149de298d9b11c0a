//! Affine formats against bit streams made by hand, and against the definition of the stream bit by bit.

use swiftlm_ir::quant::{Affine, Float, Format};

const BITS: [u8; 6] = [2, 3, 4, 5, 6, 8];

/// A row's codes as a stream of bits, least significant bit first.
fn pack(codes: &[u32], bits: u8) -> Vec<u8> {
    let stream: Vec<u32> = codes.iter().flat_map(|c| (0..bits).map(move |b| (c >> b) & 1)).collect();
    stream.chunks(8).map(|byte| byte.iter().enumerate().map(|(i, b)| (*b as u8) << i).sum()).collect()
}

fn affine(bits: u8, group: u16, scale: Float) -> Affine {
    Affine::new(bits, group, scale).expect("these widths and groups are supported")
}

#[test]
fn streams_written_by_hand() {
    // 2 bits: 0b_11_10_01_00 is 0, 1, 2, 3 from the low end.
    assert_eq!((0..4).map(|i| affine(2, 32, Float::F32).code(&[0b1110_0100], i)).collect::<Vec<_>>(), [0, 1, 2, 3]);
    // 3 bits: 1, 7, 4, 2, 5, 0, 6, 3 end to end, highest first: 011 110 000 101 010 100 111 001.
    let bytes = 0b0111_1000_0101_0101_0011_1001_u32.to_le_bytes();
    let codes: Vec<u32> = (0..8).map(|i| affine(3, 32, Float::F32).code(&bytes[..3], i)).collect();
    assert_eq!(codes, [1, 7, 4, 2, 5, 0, 6, 3]);
    // 4 bits: the low half of a byte comes first.
    assert_eq!((0..4).map(|i| affine(4, 32, Float::F32).code(&[0x21, 0xf8], i)).collect::<Vec<_>>(), [1, 2, 8, 15]);
    // 5 bits: 31, 0, 31, 0, 31, 0, 31, 0 fill 40 bits.
    let bytes = [0x1f, 0x7c, 0xf0, 0xc1, 0x07];
    assert_eq!(
        (0..8).map(|i| affine(5, 32, Float::F32).code(&bytes, i)).collect::<Vec<_>>(),
        [31, 0, 31, 0, 31, 0, 31, 0]
    );
    // 6 bits: 1, 2, 3, 63, highest first: 111111 000011 000010 000001.
    let bytes = 0b1111_1100_0011_0000_1000_0001_u32.to_le_bytes();
    assert_eq!((0..4).map(|i| affine(6, 32, Float::F32).code(&bytes[..3], i)).collect::<Vec<_>>(), [1, 2, 3, 63]);
    assert_eq!((0..3).map(|i| affine(8, 32, Float::F32).code(&[7, 0, 255], i)).collect::<Vec<_>>(), [7, 0, 255]);
}

#[test]
fn codes_of_every_width_come_back_wherever_they_lie() {
    for bits in BITS {
        let codes: Vec<u32> = (0..128u32).map(|i| i.wrapping_mul(2_654_435_761) >> (32 - u32::from(bits))).collect();
        let row = pack(&codes, bits);
        assert_eq!(row.len(), 128 * bits as usize / 8);
        let read: Vec<u32> = (0..128).map(|i| affine(bits, 32, Float::F32).code(&row, i)).collect();
        assert_eq!(read, codes, "{bits} bits");
    }
}

/// Scales and biases that all three float types hold exactly: powers of two and small whole numbers.
fn scale(group: usize) -> f32 {
    [0.5, -0.25, 2.0, 0.125, -4.0][group % 5]
}

fn bias(group: usize) -> f32 {
    [0.0, 3.0, -1.5, 0.0625][group % 4]
}

#[test]
fn matrices_of_every_format_decode_to_scale_times_code_plus_bias() {
    let (rows, cols) = (3, 256);
    for (bits, group, float) in BITS.into_iter().flat_map(|b| {
        [32u16, 64, 128].into_iter().flat_map(move |g| [Float::F32, Float::F16, Float::Bf16].map(move |f| (b, g, f)))
    }) {
        let code = |row: usize, col: usize| ((row * 977 + col * 31) as u32).wrapping_mul(40_503) & ((1 << bits) - 1);
        let groups = cols / group as usize;
        let mut bytes: Vec<u8> =
            (0..rows).flat_map(|r| pack(&(0..cols).map(|c| code(r, c)).collect::<Vec<_>>(), bits)).collect();
        for of in [scale, bias] {
            for g in 0..rows * groups {
                match float {
                    Float::F32 => bytes.extend(of(g).to_le_bytes()),
                    Float::F16 => bytes.extend(half::f16::from_f32(of(g)).to_le_bytes()),
                    Float::Bf16 => bytes.extend(half::bf16::from_f32(of(g)).to_le_bytes()),
                }
            }
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        let format = Format::Affine(affine(bits, group, float));
        assert_eq!(format.layout(rows, cols).bytes, bytes.len(), "{format}");
        let expected: Vec<f32> = (0..rows * cols)
            .map(|i| {
                let g = i / group as usize;
                scale(g) * code(i / cols, i % cols) as f32 + bias(g)
            })
            .collect();
        assert_eq!(format.decode_matrix(&bytes, rows, cols), expected, "{format}");
        let one_by_one: Vec<f32> =
            (0..rows * cols).map(|i| format.decode_host(&bytes, rows, cols, i / cols, i % cols)).collect();
        assert_eq!(one_by_one, expected, "{format}");
    }
}

#[test]
fn floats_decode_as_they_stand() {
    let bytes = [0x00, 0x3c, 0x00, 0xc0, 0x01, 0x00, 0xff, 0x7b];
    let half = Format::F16.decode_matrix(&bytes, 2, 2);
    assert_eq!(half, [1.0, -2.0, 5.960_464_5e-8, 65504.0]);
    assert_eq!(Format::BF16.decode_matrix(&[0x80, 0x3f, 0x00, 0xc0], 1, 2), [1.0, -2.0]);
    assert_eq!(Format::F32.decode_matrix(&1.1f32.to_le_bytes(), 1, 1), [1.1]);
}

#[test]
fn mxfp4_is_small_floats_times_powers_of_two() {
    let format = Format::Mxfp4;
    // Codes 0 to 15 in turn, the low half of a byte first; the second row has the scale 2, the first 1/4.
    let codes = [0x10, 0x32, 0x54, 0x76, 0x98, 0xba, 0xdc, 0xfe];
    let mut bytes: Vec<u8> = codes.repeat(4);
    bytes.extend([125, 128, 0, 0]);
    assert_eq!(format.layout(2, 32).bytes, bytes.len());
    let half = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
    let row: Vec<f32> = half.into_iter().chain(half.map(|x: f32| -x)).collect();
    let expected: Vec<f32> =
        [0.25, 2.0].iter().flat_map(|scale| row.iter().chain(&row).map(move |x| scale * x)).collect();
    assert_eq!(format.decode_matrix(&bytes, 2, 32), expected);
    assert_eq!((format.to_string().as_str(), "mxfp4".parse()), ("mxfp4", Ok(format)));
}

#[test]
fn names_of_formats_come_back() {
    for bits in BITS {
        let format = Format::Affine(affine(bits, 64, Float::Bf16));
        assert_eq!(format.to_string(), format!("affine{bits}_g64_bf16"));
        assert_eq!(format.to_string().parse(), Ok(format));
    }
    for text in ["affine7_g64_f32", "affine4_g48_f32", "affine4_g64", "affine_g64_f32", "f64", ""] {
        assert!(text.parse::<Format>().is_err(), "{text}");
    }
}
