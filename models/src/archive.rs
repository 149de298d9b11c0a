//! Which layers keep older tokens in a TurboQuant archive, and which models do not stand it.

use swiftlm_ir::quant::{Archive, Turbo};

use crate::blocks::attention::Attention;

/// Which layers have an archive, and which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArchivePolicy {
    /// The archive.
    pub archive: Archive,
    /// Layers at either end of the model that have none.
    pub boundary: usize,
    /// Whether a model that does not stand it as it is gets a finer one, or none; see [`Self::of`].
    pub careful: bool,
}

impl ArchivePolicy {
    /// The archive for a model whose layers attend so, and a sentence where a careful policy chooses another than was asked
    /// for.
    ///
    /// A sink takes weight from keys, so that errors of keys count against a part that has none (gpt-oss loses a quarter of
    /// its most likely tokens already with keys of 8 bits); a bias adds the same large vector to every key, next to which
    /// codes are coarse (Qwen2.5 with 3 bits: a perplexity of thousands); and all query heads read the errors of a single KV
    /// head. What others measured, not we: `swiftlm kv-report --kv` tells of a given model.
    pub(crate) fn of(self, attention: &Attention) -> (Option<Archive>, Option<String>) {
        let Self { archive, careful, .. } = self;
        let none = |why: &str| (None, Some(format!("TurboQuant is left out: {why}; --kv has it all the same")));
        if !careful {
            (Some(archive), None)
        } else if attention.sinks {
            none("the model has attention sinks, next to which errors of keys count too much")
        } else if attention.qkv_bias {
            none("the model's keys have a bias, next to which codes are too coarse")
        } else if attention.kv_heads == 1 && archive.k.bits < 4 {
            let finer = Turbo { bits: 4, ..archive.k };
            let note = format!("TurboQuant keeps keys in 4 bits, not {}: the model has one KV head", archive.k.bits);
            (Some(Archive { k: finer, ..archive }), Some(note))
        } else {
            (Some(archive), None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blocks::rope::Rope;
    use swiftlm_ir::ops::RopeLayout;

    fn attention(kv_heads: usize) -> Attention {
        Attention {
            heads: 8,
            kv_heads,
            head_dim: 64,
            qkv_bias: false,
            output_bias: false,
            gate: false,
            head_norm: None,
            row_norm: None,
            rope: Rope { table: 0, dim: 64, layout: RopeLayout::Half },
            window: 0,
            scale: None,
            cap: None,
            sinks: false,
        }
    }

    #[test]
    fn only_a_careful_policy_looks_at_the_model() {
        let asked = Archive::of_bits(3, 3).expect("3 bits");
        let of = |careful: bool, attention: Attention| {
            let (archive, note) = ArchivePolicy { archive: asked, boundary: 0, careful }.of(&attention);
            (archive.map(|a| (a.k.bits, a.v.bits)), note.unwrap_or_default())
        };
        let sinks = || Attention { sinks: true, ..attention(8) };
        let bias = || Attention { qkv_bias: true, ..attention(8) };
        for plain in [sinks(), bias(), attention(1), attention(8)] {
            assert_eq!(of(false, plain), (Some((3, 3)), String::new()));
        }
        assert_eq!(of(true, attention(2)), (Some((3, 3)), String::new()));
        let (finer, note) = of(true, attention(1));
        assert!(finer == Some((4, 3)) && note.contains("one KV head"), "{note}");
        for (refused, why) in [(sinks(), "sinks"), (bias(), "bias")] {
            let (archive, note) = of(true, refused);
            assert!(archive.is_none() && note.contains(why), "{note}");
        }
    }
}
