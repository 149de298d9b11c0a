//! The half of a decoder that families share: embedding, the loop over layers, final norm and head.

use swiftlm_ir::dim::Sym;
use swiftlm_ir::graph::{Call, Graph, Module, ParamKind, RopeTable, Value};
use swiftlm_ir::ops::{Op, RopeLayout};
use swiftlm_ir::ty::{DType, TensorType, Type};

use crate::blocks::attention::Attention;
use crate::blocks::rope::{self, Rope};
use crate::blocks::{Block, Built};
use crate::tensors::Resolver;
use crate::{BuildOptions, Config, Model, ModelError, TensorIndex};

/// Sizes and switches of a plain decoder, under their usual names in `config.json`.
#[derive(Clone, Debug)]
pub struct Decoder {
    /// `vocab_size`.
    pub vocabulary: usize,
    /// `hidden_size`.
    pub width: usize,
    /// `intermediate_size`.
    pub inner: usize,
    /// `num_hidden_layers`.
    pub layers: usize,
    /// `rms_norm_eps`.
    pub eps: f64,
    /// Whether the head is the embedding.
    pub tied: bool,
    /// `max_position_embeddings`.
    pub context: usize,
    /// Attention as the shared fields describe it; families change what differs.
    pub attention: Attention,
    /// Table 0 of the module.
    pub rope: RopeTable,
    /// Factor on the embeddings; 1 unless a family says otherwise.
    pub embedding_scale: f64,
    /// Factor on the logits; 1 unless a family says otherwise.
    pub logit_scale: f64,
}

impl Decoder {
    /// Reads the shared fields. `tied` is the family's default of `tie_word_embeddings`.
    ///
    /// # Errors
    /// The first field that is missing or makes no sense.
    pub fn read(config: &Config, tied: bool) -> Result<Self, ModelError> {
        config.only("hidden_act", &["silu"])?;
        let width = config.need("hidden_size")?;
        let heads = config.count("num_attention_heads", 65_536)?;
        let kv_heads = config.size("num_key_value_heads")?.unwrap_or(heads);
        if kv_heads == 0 || heads % kv_heads != 0 {
            let message = format!("config.json: {heads} attention heads do not divide over {kv_heads} key-value heads");
            return Err(ModelError::one(message));
        }
        let head_dim = config.size("head_dim")?.unwrap_or(width / heads);
        if head_dim == 0 || head_dim % 2 != 0 {
            return Err(ModelError::one(format!("config.json: the head size must be even and not 0, got {head_dim}")));
        }
        let attention = Attention {
            heads,
            kv_heads,
            head_dim,
            qkv_bias: false,
            output_bias: false,
            head_norm: None,
            rope: Rope { table: 0, dim: head_dim, layout: RopeLayout::Half },
            window: 0,
            scale: None,
        };
        Ok(Self {
            vocabulary: config.need("vocab_size")?,
            width,
            inner: config.size("intermediate_size")?.unwrap_or(0),
            layers: config.count("num_hidden_layers", 4096)?,
            eps: config.number("rms_norm_eps", 1e-6)?,
            tied: config.flag("tie_word_embeddings", tied)?,
            context: config.size("max_position_embeddings")?.unwrap_or(2048),
            rope: rope::table(config, head_dim)?,
            embedding_scale: 1.0,
            logit_scale: 1.0,
            attention,
        })
    }

    /// Whether layer `i` attends in a window, and how wide: `use_sliding_window` with `max_window_layers` as the Qwen
    /// configurations spell it.
    ///
    /// # Errors
    /// A field of the wrong kind.
    pub fn window(&self, config: &Config, i: usize) -> Result<usize, ModelError> {
        if !config.flag("use_sliding_window", false)? || i < config.size("max_window_layers")?.unwrap_or(self.layers) {
            return Ok(0);
        }
        Ok(config.size("sliding_window")?.unwrap_or(0))
    }

    /// Builds the model; `layer` turns the hidden values of layer `i` into the next, with the new version of its state.
    ///
    /// # Errors
    /// Everything wrong with the tensors.
    pub fn build(
        &self,
        config: &Config,
        index: &TensorIndex,
        options: &BuildOptions,
        layer: impl Fn(&mut Block<'_>, Value, usize) -> (Value, Value),
    ) -> Result<Model, ModelError> {
        let resolver = Resolver::new(config, index)?;
        let mut module =
            Module { vocabulary: self.vocabulary, rope_tables: vec![self.rope.clone()], ..Module::default() };
        let embed = self.embed(&resolver, options);
        push(&mut module, embed, "");
        for i in 0..self.layers {
            let scope = format!("model.layers.{i}");
            let mut b = Block::new(&format!("layer{i}"), &scope, &resolver, options);
            let x = b.flow(self.width);
            let (y, state) = layer(&mut b, x, i);
            push(&mut module, b.finish(vec![y, state]), &scope);
        }
        let head = self.head(&resolver, options);
        push(&mut module, head, "");
        // Old checkpoints store the frequencies, which follow from the configuration; tied ones may store the head twice.
        resolver.ignore(|n| n.ends_with(".rotary_emb.inv_freq") || (self.tied && n.starts_with("lm_head.")));
        resolver.finish()?;
        let family = config.text("model_type")?.unwrap_or_default().to_owned();
        Ok(Model { family, module, context: self.context })
    }

    fn embed(&self, resolver: &Resolver<'_>, options: &BuildOptions) -> Option<Built> {
        let mut b = Block::new("embed", "", resolver, options);
        let ids = b.param(ParamKind::Ids, Type::Tensor(TensorType::new(DType::U32, [Sym::Tokens.into()])));
        let w = b.matrix("model.embed_tokens.weight", self.vocabulary, self.width);
        let x = b.op(Op::Embed { scale: 1.0 }, [ids.into(), w.into()]);
        let x = b.scale(x, self.embedding_scale);
        b.finish(vec![x])
    }

    fn head(&self, resolver: &Resolver<'_>, options: &BuildOptions) -> Option<Built> {
        let mut b = Block::new("head", "", resolver, options);
        let x = b.flow(self.width);
        let x = b.op(Op::Rows, [x.into()]);
        let x = b.rms_norm("model.norm", x, self.eps);
        let logits = b.linear(if self.tied { "model.embed_tokens" } else { "lm_head" }, x, self.vocabulary, false);
        let logits = b.scale(logits, self.logit_scale);
        let greedy = b.op(Op::ArgMax, [logits.into()]);
        b.finish(vec![logits, greedy])
    }
}

/// Appends a call; a function that equals an earlier one but for its name is shared.
fn push(module: &mut Module, built: Option<Built>, scope: &str) {
    let Some(Built { graph, state }) = built else { return };
    let same = |g: &Graph| g.params == graph.params && g.weights == graph.weights && g.values == graph.values;
    let func = module.funcs.iter().position(same).unwrap_or_else(|| {
        module.funcs.push(graph);
        module.funcs.len() - 1
    });
    let state = state.map(|ty| {
        module.states.push(ty);
        module.states.len() - 1
    });
    module.main.push(Call { func, scope: scope.to_owned(), state });
}
