//! What a checkpoint holds, by name: element types and shapes, no data.

use std::cell::RefCell;
use std::collections::BTreeSet;

use indexmap::IndexMap;
use swiftlm_ir::graph::WeightType;
use swiftlm_ir::quant::{Affine, Float, Format, mxfp4};

use crate::{Config, ModelError};

/// Element type of a stored tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoredType {
    /// A floating-point type.
    Float(Float),
    /// Packed codes.
    U32,
    /// Bytes of codes, or scales of a byte.
    U8,
    /// A type that no supported layout uses; its name.
    Other(&'static str),
}

/// Type and shape of a stored tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorFacts {
    /// Element type.
    pub dtype: StoredType,
    /// Extents, outermost first.
    pub shape: Vec<usize>,
}

/// The tensors of a checkpoint, in name order.
pub type TensorIndex = IndexMap<String, TensorFacts>;

/// How a quantised module is stored, as `config.json` says it.
#[derive(Clone, Copy, Debug)]
struct Stored {
    bits: u8,
    group: u16,
    /// Whether codes are small floats whose scales are powers of two.
    mxfp4: bool,
}

/// What `mode` may be.
const MODES: [&str; 2] = ["affine", "mxfp4"];

/// Resolves weights by name against the checkpoint and keeps account: everything missing, misshapen or never asked for.
#[derive(Debug)]
pub struct Resolver<'a> {
    index: &'a TensorIndex,
    quantization: Option<Config>,
    errors: RefCell<Vec<String>>,
    used: RefCell<BTreeSet<String>>,
}

impl<'a> Resolver<'a> {
    /// A resolver over the tensors of a checkpoint with this configuration.
    ///
    /// # Errors
    /// A `quantization` entry that cannot be read.
    pub fn new(config: &Config, index: &'a TensorIndex) -> Result<Self, ModelError> {
        let quantization = match config.object("quantization")? {
            Some(q) => Some(q),
            None => config.object("quantization_config")?,
        };
        if let Some(q) = &quantization {
            q.only("mode", &MODES)?;
            if let Some(method) = q.text("quant_method")?.filter(|method| !["mlx", "mxfp4"].contains(method)) {
                return Err(ModelError::one(format!(
                    "config.json: weights stored as `{method}` are not supported: take a checkpoint of this model in \
                     bf16, f16 or f32, or convert it to MLX's layout (`mlx_lm.convert -q`)"
                )));
            }
        }
        Ok(Self { index, quantization, errors: RefCell::default(), used: RefCell::default() })
    }

    /// Notes an error for [`Self::finish`].
    pub fn error(&self, message: String) {
        let mut errors = self.errors.borrow_mut();
        if !errors.contains(&message) {
            errors.push(message);
        }
    }

    /// Whether the checkpoint holds a tensor.
    pub fn has(&self, name: &str) -> bool {
        self.index.contains_key(name)
    }

    fn take(&self, name: &str) -> Option<&TensorFacts> {
        let facts = self.index.get(name);
        match facts {
            Some(_) => {
                self.used.borrow_mut().insert(name.to_owned());
            }
            None => self.error(format!("tensor `{name}` is missing")),
        }
        facts
    }

    fn stored(&self, module: &str) -> Result<Stored, String> {
        let Some(all) = &self.quantization else {
            return Err(format!("`{module}.scales` is there, but config.json has no `quantization`"));
        };
        let own = match all.get(module) {
            Some(serde_json::Value::Object(_)) => all.object(module).ok().flatten(),
            Some(serde_json::Value::Bool(false)) => {
                return Err(format!("`{module}.scales` is there, but config.json says it is not quantised"));
            }
            _ => None,
        };
        let field = |name: &str| -> Result<usize, String> {
            let own = own.as_ref().and_then(|o| o.size(name).ok().flatten());
            own.or(all.size(name).map_err(|e| e.to_string())?)
                .ok_or_else(|| format!("config.json: `quantization.{name}` is missing"))
        };
        let narrow = |name: &str| -> Result<u16, String> {
            u16::try_from(field(name)?).map_err(|_| format!("config.json: `quantization.{name}` is out of range"))
        };
        let bits =
            u8::try_from(narrow("bits")?).map_err(|_| "config.json: `quantization.bits` is out of range".to_owned())?;
        // A module's own entry is complete: what it leaves out is not what the others have.
        let mode = own.as_ref().unwrap_or(all);
        mode.only("mode", &MODES).map_err(|e| format!("`{module}`: {e}"))?;
        let mxfp4 = mode.text("mode").ok().flatten() == Some("mxfp4");
        let stored = Stored { bits, group: narrow("group_size")?, mxfp4 };
        match (mxfp4, stored.bits, stored.group) {
            (true, bits, group) if (bits, group) != (4, 32) => {
                Err(format!("`{module}`: mxfp4 of {bits} bits in groups of {group}: expected 4 bits in groups of 32"))
            }
            _ => Ok(stored),
        }
    }

    /// The type of the matrix or vector whose primary tensor is `name`, which must be `lead × rows × cols` (`lead` slices
    /// of a stacked tensor; 1 for a plain one, whose shape has no such extent; a vector has `rows` = 1).
    /// On an error a type of the right shape stands in, and the error is kept.
    pub fn weight(&self, name: &str, lead: usize, rows: usize, cols: usize) -> WeightType {
        let stand_in = WeightType { format: Format::F32, rows: lead * rows, cols };
        let Some(facts) = self.take(name) else { return stand_in };
        let module = name.strip_suffix(".weight").unwrap_or(name);
        let scales = format!("{module}.scales");
        let shape = |cols: usize| -> Vec<usize> {
            match (lead, rows) {
                (1, 1) if facts.shape.len() == 1 => vec![cols],
                (1, _) => vec![rows, cols],
                _ => vec![lead, rows, cols],
            }
        };
        let check = |name: &str, facts: &TensorFacts, expected: Vec<usize>| {
            if facts.shape != expected {
                self.error(format!("tensor `{name}`: expected shape {expected:?}, got {:?}", facts.shape));
            }
        };
        let float = |name: &str, facts: &TensorFacts| match facts.dtype {
            StoredType::Float(f) => f,
            StoredType::U32 | StoredType::U8 | StoredType::Other(_) => {
                self.error(format!("tensor `{name}`: expected f32, f16 or bf16, got {:?}", facts.dtype));
                Float::F32
            }
        };
        if !name.ends_with(".weight") || !self.has(&scales) {
            check(name, facts, shape(cols));
            return WeightType { format: Format::Float(float(name, facts)), ..stand_in };
        }
        let bits = match self.stored(module) {
            Ok(stored) => stored,
            Err(message) => {
                self.error(message);
                return stand_in;
            }
        };
        if bits.mxfp4 {
            if let Some(s) = self.take(&scales) {
                self.expect(name, facts, StoredType::U32, &shape(cols / 8));
                self.expect(&scales, s, StoredType::U8, &shape(cols / mxfp4::BLOCK));
            }
            return self.mxfp4(name, stand_in);
        }
        let biases = format!("{module}.biases");
        let (Some(s), Some(b)) = (self.take(&scales), self.take(&biases)) else { return stand_in };
        let scale = float(&scales, s);
        if float(&biases, b) != scale {
            self.error(format!("tensor `{biases}`: expected the type of `{scales}`"));
        }
        match Affine::new(bits.bits, bits.group, scale) {
            Ok(_) if !cols.is_multiple_of(bits.group as usize) => {
                self.error(format!("tensor `{name}`: {cols} columns do not divide into groups of {}", bits.group));
                stand_in
            }
            Ok(affine) => {
                if facts.dtype != StoredType::U32 {
                    self.error(format!("tensor `{name}`: expected u32 codes, got {:?}", facts.dtype));
                }
                check(name, facts, shape(cols * bits.bits as usize / 32));
                check(&scales, s, shape(cols / bits.group as usize));
                check(&biases, b, shape(cols / bits.group as usize));
                WeightType { format: Format::Affine(affine), ..stand_in }
            }
            Err(message) => {
                self.error(format!("tensor `{name}`: {message}"));
                stand_in
            }
        }
    }

    /// The type of the kernel `name` of a convolution of each channel on its own, stored as `channels × 1 × taps` or, in
    /// MLX's layout, `channels × taps × 1`: the same order of elements.
    pub fn taps(&self, name: &str, channels: usize, taps: usize) -> WeightType {
        let stand_in = WeightType { format: Format::F32, rows: channels, cols: taps };
        let Some(facts) = self.take(name) else { return stand_in };
        if facts.shape != [channels, 1, taps] && facts.shape != [channels, taps, 1] {
            let got = &facts.shape;
            self.error(format!("tensor `{name}`: expected shape [{channels}, 1, {taps}], got {got:?}"));
        }
        match facts.dtype {
            StoredType::Float(float) => WeightType { format: Format::Float(float), ..stand_in },
            StoredType::U32 | StoredType::U8 | StoredType::Other(_) => {
                self.error(format!("tensor `{name}`: expected f32, f16 or bf16, got {:?}", facts.dtype));
                stand_in
            }
        }
    }

    fn expect(&self, name: &str, facts: &TensorFacts, dtype: StoredType, shape: &[usize]) {
        if facts.dtype != dtype || facts.shape != shape {
            let TensorFacts { dtype: got, shape: of } = facts;
            self.error(format!("tensor `{name}`: expected {dtype:?} of shape {shape:?}, got {got:?} of {of:?}"));
        }
    }

    fn mxfp4(&self, name: &str, ty: WeightType) -> WeightType {
        if ty.cols.is_multiple_of(mxfp4::BLOCK) {
            return WeightType { format: Format::Mxfp4, ..ty };
        }
        self.error(format!("tensor `{name}`: {} columns do not divide into groups of {}", ty.cols, mxfp4::BLOCK));
        ty
    }

    /// The type of `lead` matrices whose codes are `{name}_blocks`, 32 columns to 16 bytes of the innermost extent, and
    /// whose scales are `{name}_scales`.
    pub fn blocks(&self, name: &str, lead: usize, rows: usize, cols: usize) -> WeightType {
        let (codes, scales, in_row) = (format!("{name}_blocks"), format!("{name}_scales"), cols / mxfp4::BLOCK);
        if let (Some(c), Some(s)) = (self.take(&codes), self.take(&scales)) {
            self.expect(&codes, c, StoredType::U8, &[lead, rows, in_row, mxfp4::BLOCK / 2]);
            self.expect(&scales, s, StoredType::U8, &[lead, rows, in_row]);
        }
        self.mxfp4(&codes, WeightType { format: Format::F32, rows: lead * rows, cols })
    }

    /// The type of the `rows × cols` numbers of a tensor of floats of this shape.
    pub fn floats(&self, name: &str, shape: &[usize], rows: usize, cols: usize) -> WeightType {
        let mut ty = WeightType { format: Format::F32, rows, cols };
        let Some(facts) = self.take(name) else { return ty };
        match facts.dtype {
            StoredType::Float(float) if facts.shape == shape => ty.format = Format::Float(float),
            _ => self.error(format!(
                "tensor `{name}`: expected f32, f16 or bf16 of shape {shape:?}, got {:?} of {:?}",
                facts.dtype, facts.shape
            )),
        }
        ty
    }

    /// Marks tensors that a checkpoint may hold and the model does not need.
    pub fn ignore(&self, unneeded: impl Fn(&str) -> bool) {
        self.used.borrow_mut().extend(self.index.keys().filter(|n| unneeded(n)).cloned());
    }

    /// Everything wrong, the tensors that nothing asked for included.
    ///
    /// # Errors
    /// If there is anything.
    pub fn finish(self) -> Result<(), ModelError> {
        let used = self.used.into_inner();
        let mut errors = self.errors.into_inner();
        let extra = self.index.keys().filter(|n| !used.contains(*n));
        errors.extend(extra.map(|n| format!("tensor `{n}` is not part of this architecture")));
        if errors.is_empty() { Ok(()) } else { Err(ModelError(errors)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_that_cannot_be_read_are_refused_with_a_remedy() {
        let text = r#"{"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}"#;
        let config = Config::parse(text).expect("the text is a configuration");
        let refused = Resolver::new(&config, &TensorIndex::new()).expect_err("no such weights").to_string();
        assert!(
            refused.contains("`fp8`") && refused.contains("bf16") && refused.contains("mlx_lm.convert"),
            "{refused}"
        );
    }
}
