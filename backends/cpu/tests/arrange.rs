//! The order of blocks against its description, position by position: what a package's records hold.

use swiftlm_cpu::arrange::{arrange, restore};
use swiftlm_ir::graph::WeightType;
use swiftlm_ir::quant::{Affine, Float, Format};

const ROWS: usize = 32;
const COLS: usize = 128;

/// Code of a row and a column: 16 rows are a block, 32 columns a unit, four columns a set; a plane of `width` bits has 64
/// bytes for every `8 / width` sets, in which row `r` has bytes `4r .. 4r + 4`.
fn code_at(bytes: &[u8], bits: usize, row: usize, col: usize) -> u32 {
    let planes: &[usize] = match bits {
        2 => &[2],
        3 => &[2, 1],
        4 => &[4],
        5 => &[4, 1],
        6 => &[4, 2],
        _ => &[8],
    };
    let unit = (row / 16) * (16 * COLS * bits / 8) + (col / 32) * (64 * bits);
    let (set, byte) = (col % 32 / 4, 4 * (row % 16) + col % 4);
    let (mut code, mut shift, mut plane) = (0, 0, unit);
    for width in planes {
        let sets = 8 / width;
        let held = bytes[plane + set / sets * 64 + byte] >> (set % sets * width);
        code |= (u32::from(held) & ((1 << width) - 1)) << shift;
        (shift, plane) = (shift + width, plane + width * 64);
    }
    code
}

fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 7u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..bytes).map(|_| next()).collect()
}

#[test]
fn every_code_and_scale_is_where_it_is_said_to_be() {
    for (bits, float) in [2, 3, 4, 5, 6, 8].into_iter().flat_map(|b| [(b, Float::F16), (b, Float::F32)]) {
        let affine = Affine::new(bits, 32, float).expect("a width of codes");
        let ty = WeightType { format: Format::Affine(affine), rows: ROWS, cols: COLS };
        for (i, component) in ty.format.layout(ROWS, COLS).components.iter().enumerate() {
            let rows = noise(component.bytes);
            let mut blocks = rows.clone();
            arrange(ty, i, &mut blocks).expect("it has blocks");
            for row in 0..ROWS {
                let own = &rows[row * component.row_bytes..][..component.row_bytes];
                if i == 0 {
                    for col in 0..COLS {
                        let got = code_at(&blocks, bits as usize, row, col);
                        assert_eq!(got, affine.code(own, col), "{bits} bits, row {row}, column {col}");
                    }
                    continue;
                }
                // Of a block, 16 scales for each group of columns.
                let groups = COLS / 32;
                for (group, scale) in own.chunks_exact(float.bytes()).enumerate() {
                    let at = (row / 16 * 16 * groups + group * 16 + row % 16) * float.bytes();
                    assert_eq!(&blocks[at..at + float.bytes()], scale, "row {row}, group {group}");
                }
            }
            restore(ty, i, &mut blocks).expect("it has blocks");
            assert!(blocks == rows, "{bits} bits, component {i}");
        }
    }
}
