//! Causal convolution of each channel over the inputs of its own sequence; the last inputs stay for the next step.

use swiftlm_ir::dim::Sym;
use swiftlm_ir::graph::WeightType;
use swiftlm_ir::plan::Groups;
use swiftlm_ir::quant::decode::Encoded;
use swiftlm_ir::template::ShortConv;

use super::operand::{Extras, Rows};
use super::segment::{Segments, State};
use super::{Bounds, Built, single};

/// Channels of a workgroup, a lane each.
const LANES: u32 = 64;

/// One workgroup per segment and block of channels walks the tokens in order: the inputs that a token looks back at are
/// in registers, whichever step brought them.
pub(super) fn build(t: &ShortConv, name: &str, bounds: Bounds) -> Built {
    let (tokens, channels, columns) = (bounds.of(Sym::Tokens), t.channels, t.taps - 1);
    let kb = bounds.kernel(name, LANES);
    let x = Rows::declare(&kb, "x", t.x, tokens, channels);
    let weight = Encoded::declare(&kb, "weight", WeightType { format: t.weight, rows: channels, cols: t.taps });
    let segments = Segments::declare(&kb, bounds);
    let state = State::declare(&kb, "inputs", columns * channels);
    let extras = Extras::declare(&kb, &t.extras, tokens, channels);
    let y = Rows::declare(&kb, "y", t.y, tokens, channels);

    segments.when(kb.group(0), |segment| {
        let channel = kb.group(1).times(LANES as usize) + kb.lane();
        kb.when(channel.lt(kb.dim(channels)), || {
            let taps: Vec<_> = (0..t.taps).map(|j| weight.load(channel, kb.dim(j))).collect();
            let place = segments.place(&segment, state);
            let at = |column: usize| place + channel.plus(column * channels);
            let window: Vec<_> = (0..columns).map(|i| kb.var(state.load(&kb, &segment, at(i)))).collect();
            kb.range(segment.first, segment.end, 1, |token| {
                let own = x.load(token, channel);
                let seen: Vec<_> = window.iter().map(|v| v.get()).chain([own]).collect();
                let sum = taps.iter().zip(&seen).map(|(w, x)| *w * *x).reduce(|sum, term| sum + term).unwrap_or(own);
                y.store(token, channel, extras.map(&t.epilogue, &[sum], token, channel));
                window.iter().zip(&seen[1..]).for_each(|(v, x)| v.set(*x));
            });
            window.iter().enumerate().for_each(|(i, v)| state.store(at(i), v.get()));
        });
    });
    let blocks = Groups::fixed(channels.div_ceil(LANES as usize));
    Built::whole(kb.finish(), [Segments::groups(), blocks, single()])
}
