//! A small kernel of every template with arguments that it can be run on.

use swiftlm_compiler::kernels::{Built, build};
use swiftlm_ir::dim::{ShapeClass, Sym};
use swiftlm_ir::graph::WeightType;
use swiftlm_ir::kernel::{KType, Kernel, Length};
use swiftlm_ir::map::{Map, MapStep, Reg};
use swiftlm_ir::ops::{RopeLayout, Routing};
use swiftlm_ir::plan::StepSizes;
use swiftlm_ir::quant::{Archive, Float, Format};
use swiftlm_ir::template::{
    Append, Archiving, ArgMax, Attend, Combine, Delta, Elementwise, Embed, ExpertLinear, Extra, HeadLinear,
    LatentAppend, Linear, Norm, RmsNorm, Rope, RopeAppend, Rotate, Route, Rows, ShortConv, Ssm, Template, View,
};

use crate::harness::{Random, bytes, sizes};

/// Largest step of the samples.
const CHUNK: usize = 10;
const TABLE_STRIDE: usize = 3;
const EXPERTS: usize = 3;
const PAGES: u32 = 4;

fn weight(format: &str, rows: usize, cols: usize) -> WeightType {
    WeightType { format: format.parse().expect("a format"), rows, cols }
}

fn view(width: usize) -> View {
    View { offset: 4, stride: width + 8 }
}

fn linear(class: ShapeClass, weight: WeightType, everything: bool) -> Template {
    let mut epilogue = Map::identity();
    if everything {
        let (b, c) = (epilogue.push(MapStep::Input(1)), epilogue.push(MapStep::Input(2)));
        epilogue.push(MapStep::Add(b, c));
    }
    Template::Linear(Linear {
        rows: Sym::Tokens,
        class,
        weight,
        norm: everything.then_some(Norm { eps: 1e-5, offset: 1.0, weight: Format::F16 }),
        round: None,
        pair: everything,
        epilogue,
        extras: if everything { vec![Extra::Column(Format::BF16)] } else { vec![] },
        x: view(weight.cols),
        y: View::dense(if everything { weight.rows / 2 } else { weight.rows }),
    })
}

/// Every template, with formats, classes and shapes that take different ways through its kernel.
fn templates() -> Vec<Template> {
    let norm = Norm { eps: 1e-5, offset: 0.0, weight: Format::BF16 };
    let rope = RopeLayout::Half;
    let append = |dim: usize| {
        let k = View { offset: dim, stride: 4 * dim };
        Append { heads: 1, dim, k_format: Format::F16, v_format: Format::F32, k, v: View { offset: 2 * dim, ..k } }
    };
    let attend = |heads, dim, window| {
        let (q, formats) = (view(heads * dim), (Format::F16, Format::BF16));
        let (class, scale) = (ShapeClass::Few, 1.0);
        let (k_format, v_format) = formats;
        let cap = if window > 0 { 2.0 } else { 0.0 };
        let (archive, rotate_back) = (None, false);
        Attend {
            class,
            heads,
            kv_heads: 2,
            dim,
            scale,
            window,
            cap,
            k_format,
            v_format,
            latent: None,
            archive,
            rotate_back,
            sinks: (window > 0).then_some(Float::Bf16),
            q,
            y: q,
        }
    };
    let expert = |x_per_rank: bool| ExpertLinear {
        class: ShapeClass::Few,
        weight: weight("affine4_g32_f16", EXPERTS * 6, 96),
        experts: EXPERTS,
        top_k: 2,
        x_per_rank,
        round: None,
        bias: x_per_rank.then_some(Float::F16),
        pair: x_per_rank,
        epilogue: Map::identity(),
        x: view(96),
        y: View::dense(if x_per_rank { 3 } else { 6 }),
    };
    let mut all: Vec<Template> = vec![];
    for format in ["affine3_g32_f16", "bf16"] {
        let (weight, y) = (weight(format, 9, 32), view(32));
        all.push(Template::Embed(Embed { rows: Sym::Tokens, weight, first_row: 2, scale: 1.0, y }));
    }
    for (heads, dim, grouped) in [(1, 9, false), (3, 16, false), (3, 5, true)] {
        let (x, y) = (view(heads * dim), View::dense(heads * dim));
        let (epilogue, extras) = (Map::identity(), vec![]);
        all.push(Template::RmsNorm(RmsNorm { rows: Sym::Rows, heads, dim, norm, grouped, epilogue, extras, x, y }));
    }
    for class in ShapeClass::ALL {
        all.push(linear(class, weight("affine5_g32_bf16", 6, 96), true));
        all.push(linear(class, weight("f16", 3, 9), false));
        all.push(linear(class, weight("affine4_g64_f16", 5, 128), false));
        all.push(linear(class, weight("mxfp4", 5, 96), false));
    }
    let rotation =
        Rope { heads: 3, dim: 6, start: 0, rotated: 4, layout: rope, norm: Some(norm), x: view(18), y: view(18) };
    all.push(Template::Rope(rotation.clone()));
    all.push(Template::Rope(Rope { rotated: 6, layout: RopeLayout::Interleaved, norm: None, ..rotation.clone() }));
    all.push(Template::Rope(Rope { start: 2, rotated: 4, layout: RopeLayout::Interleaved, norm: None, ..rotation }));
    for (class, transposed) in [(ShapeClass::One, false), (ShapeClass::Few, true), (ShapeClass::Some, false)] {
        let weight = weight("affine4_g32_f16", 3 * 8, 32);
        let (dim, width) = if transposed { (7 + 3, 32 + 3) } else { (32 + 3, 7 + 3) };
        let (heads, first, len, x, y) = (3, 1, 7, view(3 * dim), view(3 * width));
        all.push(Template::HeadLinear(HeadLinear { class, weight, heads, dim, first, len, transposed, x, y }));
    }
    for (format, rotation) in [(Format::F16, Some(rope)), (Format::F32, None)] {
        let norm = rotation.map(|_| norm);
        let (x, r) = (view(8), View { offset: 8, ..view(16) });
        all.push(Template::LatentAppend(LatentAppend { latent: 8, rest: 4, format, norm, rotation, x, r }));
    }
    for class in [ShapeClass::One, ShapeClass::Many] {
        let (k_format, v_format, q) = (Format::F16, Format::F16, view(4 * 12));
        let latent = Attend { class, kv_heads: 1, latent: Some(8), k_format, v_format, ..attend(4, 12, 0) };
        all.push(Template::Attend(Attend { q, y: view(4 * 8), ..latent }));
    }
    all.push(Template::Append(append(6)));
    all.push(Template::RopeAppend(RopeAppend {
        heads: 1,
        rotated: 4,
        layout: rope,
        q_norm: None,
        k_norm: Some(norm),
        rotate: false,
        q: View { offset: 0, stride: 32 },
        q_out: view(8),
        append: append(8),
    }));
    let merged = View { offset: 0, stride: 4 * 48 };
    all.push(Template::RopeAppend(RopeAppend {
        heads: 2,
        rotated: 48,
        layout: rope,
        q_norm: None,
        k_norm: None,
        rotate: true,
        q: merged,
        q_out: view(96),
        append: Append {
            heads: 1,
            dim: 48,
            k_format: Format::F16,
            v_format: Format::F16,
            k: View { offset: 96, ..merged },
            v: View { offset: 144, ..merged },
        },
    }));
    for inverse in [false, true] {
        all.push(Template::Rotate(Rotate { heads: 3, dim: 48, inverse, x: view(144), y: view(144) }));
    }
    for (k, v, centered) in [("turbo4", "turbo3_unbiased", true), ("turbo2", "turbo1", false)] {
        let turbo = |name: &str| name.parse().expect("a format");
        let archive = Archive { k: turbo(k), v: turbo(v), first: 32, last: 32, centered };
        let (k_format, v_format) = (Format::F16, Format::F16);
        all.push(Template::Archive(Archiving { heads: 2, dim: 48, k_format, v_format, archive }));
        for class in [ShapeClass::One, ShapeClass::Many] {
            let sinks = centered.then_some(Float::F32);
            let attend = Attend { class, archive: Some(archive), rotate_back: true, sinks, ..attend(4, 48, 0) };
            all.push(Template::Attend(Attend { k_format, v_format, ..attend }));
        }
    }
    all.push(Template::Attend(attend(4, 8, 0)));
    all.push(Template::Attend(attend(2, 6, 5)));
    for extras in [vec![], vec![Extra::Column(Format::F16), Extra::Part { start: 5, len: 9, factor: 0.5 }]] {
        let (epilogue, x, y, weight) = (with(&extras), view(70), view(70), Format::BF16);
        all.push(Template::ShortConv(ShortConv { channels: 70, taps: 4, weight, epilogue, extras, x, y }));
    }
    for (key, norm) in [(16, Some(1e-6)), (5, None)] {
        let row = View { offset: 0, stride: 4 * key + 2 * 9 };
        let (k, v) = (View { offset: 2 * key, ..row }, View { offset: 4 * key, ..row });
        let (decay, gates) = ([Format::F32, Format::BF16], view(2));
        let sizes = Delta {
            heads: 2,
            key_heads: 2,
            key,
            value: 9,
            scale: 0.5,
            norm,
            decay,
            q: row,
            k,
            v,
            alpha: gates,
            beta: gates,
            y: view(18),
        };
        all.push(Template::Delta(sizes));
    }
    for (key, bounds) in [(16, [0.0, f32::MAX]), (5, [0.25, 1.5])] {
        let c = View { offset: 0, stride: 2 * key + 4 * 9 };
        let (b, x) = (View { offset: key, ..c }, View { offset: 2 * key, ..c });
        let (weights, extras) = ([Format::F32, Format::BF16, Format::F16], vec![Extra::Element(view(36))]);
        let (heads, groups, value, epilogue, dt, y) = (4, 1, 9, with(&extras), view(4), view(36));
        let sizes = Ssm { heads, groups, key, value, bounds, weights, epilogue, extras, c, b, x, dt, y };
        all.push(Template::Ssm(sizes));
    }
    let routing = Routing::Softmax;
    all.push(Template::Route(Route {
        experts: 5,
        top_k: 2,
        groups: 1,
        kept: 1,
        bias: None,
        routing,
        normalize: true,
        scores: view(5),
    }));
    let (groups, kept, bias, routing) = (4, 2, Some(Format::BF16), Routing::Sigmoid);
    let (experts, scores) = (12, view(12));
    all.push(Template::Route(Route { experts, top_k: 3, groups, kept, bias, routing, normalize: true, scores }));
    all.push(Template::ExpertLinear(expert(false)));
    all.push(Template::ExpertLinear(expert(true)));
    let (epilogue, extras) = (Map::identity(), vec![]);
    all.push(Template::Combine(Combine { dim: 70, top_k: 2, epilogue, extras, out: view(70) }));
    all.push(Template::Rows(Rows { dim: 5, x: view(5), y: View::dense(5) }));
    all.push(Template::ArgMax(ArgMax { rows: Sym::Rows, dim: 70, x: view(70) }));
    let (map, extras) = (Map::identity(), vec![Extra::Element(view(300))]);
    all.push(Template::Map(Elementwise { rows: Sym::Tokens, dim: 300, map, extras, y: View::dense(300) }));
    all
}

/// A program that multiplies its result by all extras.
fn with(extras: &[Extra]) -> Map {
    let mut map = Map::identity();
    let mut product = Reg(0);
    for i in 1..=extras.len() {
        let extra = map.push(MapStep::Input(i as u16));
        product = map.push(MapStep::Mul(product, extra));
    }
    map
}

/// The kernels of all samples.
pub(crate) fn kernels() -> Vec<(Template, Built)> {
    let of =
        |template: Template| build(&template, CHUNK, CHUNK).into_iter().map(move |built| (template.clone(), built));
    templates().into_iter().flat_map(of).collect()
}

/// Arguments as long as declared, holding data as a host checks it.
pub(crate) fn arguments(kernel: &Kernel, random: &mut Random) -> Vec<Vec<u8>> {
    let argument = |arg: &swiftlm_ir::kernel::KArg, random: &mut Random| {
        let elements = match arg.len {
            Length::Elements(n) => n as usize,
            Length::Units(n) => n as usize * PAGES as usize,
            Length::PageTable => 2 * TABLE_STRIDE,
        };
        let below = match arg.name.as_str() {
            "ids" => EXPERTS,
            "positions" => TABLE_STRIDE * 32,
            "units" => PAGES as usize,
            "segments" => CHUNK + 1,
            "sequences" => 2,
            "rows" => 1,
            "page_table" | "archive_table" => PAGES as usize,
            _ if arg.elem.scalar == KType::F32.scalar => {
                return bytes(
                    &std::iter::repeat_with(|| random.unit())
                        .take(elements * arg.elem.width as usize)
                        .collect::<Vec<_>>(),
                );
            }
            _ => usize::MAX,
        };
        let words = elements * arg.elem.width as usize;
        bytes(&std::iter::repeat_with(|| random.below(below) as u32).take(words).collect::<Vec<_>>())
    };
    kernel.args.iter().map(|arg| argument(arg, random)).collect()
}

/// The largest step that a kernel is made for.
pub(crate) fn largest_step(kernel: &Kernel) -> StepSizes {
    let [tokens, rows, _] = kernel.immediate_max;
    sizes(tokens as usize, rows as usize, TABLE_STRIDE)
}
