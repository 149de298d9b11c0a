//! Latents, and behind each of them the rotated part of the key, to the pages of their sequences.

use swiftlm_ir::dim::Sym;
use swiftlm_ir::kernel::Access;
use swiftlm_ir::plan::Groups;
use swiftlm_ir::template::LatentAppend;
use swiftlm_ir::ty::PAGE_TOKENS;

use super::operand::{NormWeight, Rows};
use super::pages::{PageTable, Pages, Part};
use super::rope::{Head, Rotation};
use super::{Bounds, Built, single, when_row};

const LANES: u32 = 64;

/// One workgroup per token: its lanes share the words of what is stored.
pub(super) fn build(t: &LatentAppend, name: &str, bounds: Bounds) -> Built {
    let tokens = bounds.of(Sym::Tokens);
    let kb = bounds.kernel(name, LANES);
    let x = Rows::declare(&kb, "latents", t.x, tokens, t.latent);
    let norm = t.norm.map(|norm| NormWeight::declare(&kb, "norm", norm, t.latent));
    let r = Rows::declare(&kb, "rest", t.r, tokens, t.rest);
    let rotation = t.rotation.and_then(|layout| Rotation::declare(&kb, bounds, (0, t.rest), layout));
    let table = PageTable::declare(&kb, bounds);
    let pages = Pages::declare(&kb, Part::Keys, Access::ReadWrite, t.format, 1, t.latent + t.rest);

    let token = kb.group(0);
    when_row(&kb, Sym::Tokens, token, || {
        let zero = kb.u32(0);
        let latent = Head::new(&kb, x, (token, zero, t.latent), norm.as_ref(), None);
        let rest = Head::new(&kb, r, (token, zero, t.rest), None, rotation);
        let position = table.position(token);
        let page = table.page(token, table.block(position));
        let place = pages.place(page, zero, position.modulo(PAGE_TOKENS));
        kb.for_lanes(pages.row().words(), |word| {
            // Both are computed, from elements that exist, and one is taken.
            pages.store(place, word, |d| {
                let behind = d.max(kb.dim(t.latent)) - kb.dim(t.latent);
                let rest = rest.value(behind.min(kb.dim(t.rest - 1)));
                d.lt(kb.dim(t.latent)).select(latent.value(d.min(kb.dim(t.latent - 1))), rest)
            });
        });
    });
    Built::whole(kb.finish(), [Groups::per_rows(1, Sym::Tokens, 1), single(), single()])
}
