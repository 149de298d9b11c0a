//! The half of a decoder that families share: embedding, the loop over layers, final norm and head.

use swiftlm_ir::dim::Sym;
use swiftlm_ir::graph::{Call, Graph, Module, ParamKind, RopeTable, Value};
use swiftlm_ir::ops::{Op, RopeLayout};
use swiftlm_ir::ty::{DType, StateType, TensorType, Type};

use crate::blocks::attention::Attention;
use crate::blocks::mlp::Activation;
use crate::blocks::rope::{self, Rope};
use crate::blocks::{Block, Built, Norm};
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
    /// The norms of rows: `rms_norm_eps`, and 0 as the weight's offset unless a family says otherwise.
    pub norm: Norm,
    /// `hidden_activation` or `hidden_act`.
    pub activation: Activation,
    /// Whether the head is the embedding.
    pub tied: bool,
    /// `max_position_embeddings`.
    pub context: usize,
    /// Attention as the shared fields describe it; families change what differs.
    pub attention: Attention,
    /// Rope tables of the module; one unless a family says otherwise.
    pub ropes: Vec<RopeTable>,
    /// Factor on the embeddings; 1 unless a family says otherwise.
    pub embedding_scale: f64,
    /// Factor on the logits; 1 unless a family says otherwise.
    pub logit_scale: f64,
    /// Bound that logits `x` approach as `cap · tanh(x / cap)`; none unless a family says otherwise.
    pub logit_cap: Option<f64>,
    /// Where embeddings, layers and final norm are: `model`.
    pub base: String,
    /// The final norm, below [`Self::base`]: `norm`.
    pub final_norm: String,
    /// Where the head is: `lm_head`.
    pub head: String,
    /// First parts of the names of tensors that a checkpoint may hold and this model leaves alone.
    pub unused: Vec<String>,
}

/// The last versions of a layer's states, in the order in which its blocks took them.
#[derive(Clone, Debug)]
pub struct Versions(Vec<Value>);

impl From<Value> for Versions {
    fn from(only: Value) -> Self {
        Self(vec![only])
    }
}

impl<const N: usize> From<[Value; N]> for Versions {
    fn from(all: [Value; N]) -> Self {
        Self(all.into())
    }
}

impl Decoder {
    /// Reads the shared fields. `tied` is the family's default of `tie_word_embeddings`.
    ///
    /// # Errors
    /// The first field that is missing or makes no sense.
    pub fn read(config: &Config, tied: bool) -> Result<Self, ModelError> {
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
            gate: false,
            head_norm: None,
            row_norm: None,
            rope: Rope { table: 0, dim: head_dim, layout: RopeLayout::Half },
            window: 0,
            scale: None,
            cap: None,
            sinks: false,
        };
        Ok(Self {
            vocabulary: config.need("vocab_size")?,
            width,
            inner: config.size("intermediate_size")?.unwrap_or(0),
            layers: config.count("num_hidden_layers", 4096)?,
            norm: Norm { eps: config.number("rms_norm_eps", 1e-6)?, offset: 0.0 },
            activation: Activation::read(config)?,
            tied: config.flag("tie_word_embeddings", tied)?,
            context: config.size("max_position_embeddings")?.unwrap_or(2048),
            ropes: vec![rope::table(config, head_dim)?],
            embedding_scale: 1.0,
            logit_scale: 1.0,
            logit_cap: None,
            base: "model".to_owned(),
            final_norm: "norm".to_owned(),
            head: "lm_head".to_owned(),
            unused: vec![],
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

    /// Which layers attend in a window: `layer_types` says so for each; without it all but every `pattern`-th do.
    ///
    /// # Errors
    /// A list of another length, or with a kind of layer that is neither.
    pub fn sliding(&self, config: &Config, pattern: usize) -> Result<Vec<bool>, ModelError> {
        let listed = self.kinds(config, ["sliding_attention", "full_attention"])?;
        let every = || (1..=self.layers).map(|i| pattern == 0 || !i.is_multiple_of(pattern)).collect();
        Ok(listed.unwrap_or_else(every))
    }

    /// Which layers are of the first of two kinds, if `layer_types` says so for each.
    ///
    /// # Errors
    /// A list of another length, or with a kind of layer that is neither.
    pub fn kinds(&self, config: &Config, kinds: [&str; 2]) -> Result<Option<Vec<bool>>, ModelError> {
        let Some(types) = config.get("layer_types") else { return Ok(None) };
        let first = |ty: &serde_json::Value| match ty.as_str() {
            Some(kind) if kind == kinds[0] => Some(true),
            Some(kind) if kind == kinds[1] => Some(false),
            _ => None,
        };
        let listed = types.as_array().and_then(|types| types.iter().map(first).collect::<Option<Vec<bool>>>());
        listed.filter(|listed| listed.len() == self.layers).map(Some).ok_or_else(|| {
            let expected = format!("{} for each of {} layers", kinds.join(" or "), self.layers);
            ModelError::one(format!("config.json: `layer_types`: expected {expected}, got {types}"))
        })
    }

    /// Builds the model; `layer` turns the hidden values of layer `i` into the next, with the new versions of its states.
    ///
    /// # Errors
    /// Everything wrong with the tensors.
    pub fn build<S: Into<Versions>>(
        &self,
        config: &Config,
        index: &TensorIndex,
        options: &BuildOptions,
        layer: impl Fn(&mut Block<'_>, Value, usize) -> (Value, S),
    ) -> Result<Model, ModelError> {
        let resolver = Resolver::new(config, index)?;
        let mut module = Module { vocabulary: self.vocabulary, rope_tables: self.ropes.clone(), ..Module::default() };
        let mut states = vec![];
        let embed = self.embed(&resolver, options);
        push(&mut module, &mut states, embed, "");
        let boundary = options.archive.map_or(0, |policy| policy.boundary);
        let mut note = None;
        for i in 0..self.layers {
            let scope = format!("{}.layers.{i}", self.base);
            let inside = i >= boundary && i + boundary < self.layers;
            let mut options = options.of_layer(i);
            options.archive = options.archive.filter(|_| inside);
            let mut b = Block::new(&format!("layer{i}"), &scope, &resolver, &options);
            let x = b.flow(self.width);
            let (y, versions) = layer(&mut b, x, i);
            let results = [y].into_iter().chain(versions.into().0).collect();
            let built = b.finish(results);
            note = note.or_else(|| built.as_ref()?.note.clone());
            push(&mut module, &mut states, built, &scope);
        }
        let head = self.head(&resolver, options);
        push(&mut module, &mut states, head, "");
        deal(&mut module, &states);
        // Old checkpoints store the frequencies, which follow from the configuration; tied ones may store the head twice.
        let below = |name: &str, path: &str| name.strip_prefix(path).is_some_and(|rest| rest.starts_with('.'));
        resolver.ignore(|n| n.ends_with(".rotary_emb.inv_freq") || (self.tied && below(n, &self.head)));
        let held = |part: &&String| index.keys().any(|name| below(name, part));
        let unused: Vec<String> = self.unused.iter().filter(held).cloned().collect();
        resolver.ignore(|n| unused.iter().any(|part| below(n, part)));
        resolver.finish()?;
        let family = config.text("model_type")?.unwrap_or_default().to_owned();
        Ok(Model { family, module, context: self.context, unused, note })
    }

    fn embed(&self, resolver: &Resolver<'_>, options: &BuildOptions) -> Option<Built> {
        let mut b = Block::new("embed", "", resolver, options);
        let ids = b.param(ParamKind::Ids, Type::Tensor(TensorType::new(DType::U32, [Sym::Tokens.into()])));
        let w = b.matrix(&format!("{}.embed_tokens.weight", self.base), self.vocabulary, self.width);
        let x = b.op(Op::Embed { scale: 1.0 }, [ids.into(), w.into()]);
        let x = b.scale(x, self.embedding_scale);
        b.finish(vec![x])
    }

    fn head(&self, resolver: &Resolver<'_>, options: &BuildOptions) -> Option<Built> {
        let options = options.of_layer(self.layers);
        let options = BuildOptions { activations: options.activations.of_head(), ..options };
        let mut b = Block::new("head", "", resolver, &options);
        let x = b.flow(self.width);
        let x = b.op(Op::Rows, [x.into()]);
        let x = b.rms_norm(&format!("{}.{}", self.base, self.final_norm), x, self.norm);
        let matrix = if self.tied { format!("{}.embed_tokens", self.base) } else { self.head.clone() };
        let logits = b.linear(&matrix, x, self.vocabulary, false);
        let logits = b.scale(logits, self.logit_scale);
        let logits = b.soft_cap(logits, self.logit_cap);
        let greedy = b.op(Op::ArgMax, [logits.into()]);
        b.finish(vec![logits, greedy])
    }
}

/// Appends a call; a function that equals an earlier one but for its name is shared.
fn push(module: &mut Module, states: &mut Vec<Vec<StateType>>, built: Option<Built>, scope: &str) {
    let Some(Built { graph, states: own, .. }) = built else { return };
    let same = |g: &Graph| g.params == graph.params && g.weights == graph.weights && g.values == graph.values;
    let func = module.funcs.iter().position(same).unwrap_or_else(|| {
        module.funcs.push(graph);
        module.funcs.len() - 1
    });
    module.main.push(Call { func, scope: scope.to_owned(), states: vec![] });
    states.push(own);
}

/// Gives each call its states: the first ones of all calls, then the second ones.
fn deal(module: &mut Module, states: &[Vec<StateType>]) {
    for i in 0..states.iter().map(Vec::len).max().unwrap_or(0) {
        for (call, own) in module.main.iter_mut().zip(states) {
            if let Some(ty) = own.get(i) {
                call.states.push(module.states.len());
                module.states.push(ty.clone());
            }
        }
    }
}
