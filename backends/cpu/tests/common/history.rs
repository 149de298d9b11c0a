//! Keys or values of sequences on pages.

use half::{bf16, f16};
use swiftlm_ir::quant::{Float, Format, HeadRow};
use swiftlm_ir::ty::PAGE_TOKENS;

use super::Random;

/// A number as it is stored.
fn encode(float: Float, x: f32) -> Vec<u8> {
    match float {
        Float::F32 => x.to_le_bytes().to_vec(),
        Float::F16 => f16::from_f32(x).to_le_bytes().to_vec(),
        Float::Bf16 => bf16::from_f32(x).to_le_bytes().to_vec(),
    }
}

/// Keys or values of sequences of some lengths on shuffled pages; what no sequence holds is NaN.
pub(crate) struct History {
    pub(crate) keys: bool,
    pub(crate) row: HeadRow,
    pub(crate) heads: usize,
    pub(crate) stride: usize,
    pub(crate) table: Vec<u32>,
    pub(crate) bytes: Vec<u8>,
}

impl History {
    pub(crate) fn new(
        random: &mut Random,
        keys: bool,
        format: Format,
        (heads, dim): (usize, usize),
        lengths: &[usize],
        table: &[u32],
    ) -> Self {
        let row = HeadRow::new(format, dim).unwrap();
        let trap = if let Format::Float(float) = format { encode(float, f32::NAN) } else { vec![0xff, 0x7f] };
        let bytes = trap.repeat(table.len() * heads * row.page_bytes() / trap.len());
        let stride = table.len() / lengths.len();
        let mut history = Self { keys, row, heads, stride, table: table.to_vec(), bytes };
        for (sequence, length) in lengths.iter().enumerate() {
            for (position, head) in (0..*length).flat_map(|p| (0..heads).map(move |h| (p, h))) {
                match format {
                    Format::Mxfp4 => unreachable!("pages have other formats"),
                    Format::Float(float) => {
                        for d in 0..dim {
                            let at = history.at(sequence, position, head, d);
                            let value = encode(float, random.float());
                            history.bytes[at..at + value.len()].copy_from_slice(&value);
                        }
                    }
                    Format::Affine(a) => {
                        for word in 0..row.words() {
                            let at = history.word(sequence, position, head, word);
                            history.bytes[at..at + 4].copy_from_slice(&(random.next() as u32).to_le_bytes());
                        }
                        for group in 0..row.groups() {
                            let at = history.group(sequence, position, head, group);
                            let scale = encode(Float::F16, random.float() * 2.0 / (1u32 << a.bits) as f32);
                            let bias = encode(Float::F16, random.float() * 0.5);
                            history.bytes[at..at + 4].copy_from_slice(&[scale, bias].concat());
                        }
                    }
                }
            }
        }
        history
    }

    /// First byte of a head of the page that holds a position.
    pub(crate) fn head(&self, sequence: usize, position: usize, head: usize) -> usize {
        let page = self.table[sequence * self.stride + position / PAGE_TOKENS] as usize;
        (page * self.heads + head) * self.row.page_bytes()
    }

    /// Keys lie `[word][slot]`, values `[slot][word]`.
    pub(crate) fn word(&self, sequence: usize, position: usize, head: usize, word: usize) -> usize {
        let slot = position % PAGE_TOKENS;
        let at = if self.keys { word * PAGE_TOKENS + slot } else { slot * self.row.words() + word };
        self.head(sequence, position, head) + 4 * at
    }

    pub(crate) fn group(&self, sequence: usize, position: usize, head: usize, group: usize) -> usize {
        let at = (self.row.words() + group) * PAGE_TOKENS + position % PAGE_TOKENS;
        self.head(sequence, position, head) + 4 * at
    }

    /// Byte of an element's first bit.
    pub(crate) fn at(&self, sequence: usize, position: usize, head: usize, d: usize) -> usize {
        let per = self.row.per_word();
        self.word(sequence, position, head, d / per) + d % per * self.row.bits() / 8
    }

    /// What bytes like this history's hold.
    pub(crate) fn read(&self, bytes: &[u8], sequence: usize, position: usize, head: usize, d: usize) -> f64 {
        let at = self.at(sequence, position, head, d);
        match self.row.format {
            Format::Mxfp4 => unreachable!("pages have other formats"),
            Format::Float(float) => f64::from(float.get(&bytes[at..], 0)),
            Format::Affine(a) => {
                let code = u32::from(bytes[at]) >> (d * a.bits as usize % 8) & ((1 << a.bits) - 1);
                let group = self.group(sequence, position, head, d / self.row.group());
                let of = |i: usize| f64::from(Float::F16.get(&bytes[group..], i));
                of(0) * f64::from(code) + of(1)
            }
        }
    }

    pub(crate) fn get(&self, sequence: usize, position: usize, head: usize, d: usize) -> f64 {
        self.read(&self.bytes, sequence, position, head, d)
    }
}
