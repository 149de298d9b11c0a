//! What kernels look like in the languages that devices take: reviewed snapshots, and a validator's word on each.

mod kernels;

use kernels::{matvec, repeated_sum, row_sum, transpose, vector_add};
use swiftlm_ir::kernel::Kernel;
use swiftlm_shader::{LowerOptions, lower, msl, spirv, validate, wgsl};

const SPIRV_MAGIC: u32 = 0x0723_0203;

fn check(name: &str, kernel: &Kernel, subgroup: Option<u32>) {
    let options = LowerOptions { subgroup, ..LowerOptions::default() };
    let module = lower(kernel, &options).expect("lowers");
    validate(&module).expect("valid");
    assert_eq!(spirv(&module).expect("SPIR-V")[0], SPIRV_MAGIC);
    insta::assert_snapshot!(format!("{name}.wgsl"), wgsl(&module).expect("WGSL"));
    insta::assert_snapshot!(format!("{name}.msl"), msl(&module).expect("MSL"));
}

#[test]
fn vector_add_is_a_guarded_store() {
    check("vector_add", &vector_add(), None);
}

#[test]
fn row_sum_without_subgroups_exchanges_through_shared_memory() {
    check("row_sum_shared", &row_sum(256), None);
}

#[test]
fn row_sum_with_subgroups_shuffles_below_their_size() {
    check("row_sum_subgroup_32", &row_sum(256), Some(32));
}

#[test]
fn transpose_has_one_barrier() {
    check("transpose", &transpose(), None);
}

#[test]
fn matvec_reads_vectors() {
    check("matvec", &matvec(), Some(32));
}

#[test]
fn no_text_has_a_runtime_check() {
    for kernel in [vector_add(), row_sum(256), transpose(), matvec()] {
        let module = lower(&kernel, &LowerOptions::default()).expect("lowers");
        let text = msl(&module).expect("MSL");
        for check in ["loop_init", "loop_bound", "naga_div", "naga_mod", "metal::min(unsigned"] {
            assert!(!text.contains(check), "{} has {check}:\n{text}", kernel.name);
        }
    }
}

#[test]
fn scratch_is_written_again_only_after_a_barrier() {
    let barriers = |kernel: &Kernel| {
        let text = wgsl(&lower(kernel, &LowerOptions::default()).expect("lowers")).expect("WGSL");
        text.matches("workgroupBarrier()").count()
    };
    // One exchange needs the barrier between its writes and reads; a turn of a loop also one after the last turn's
    // reads. No race shows on devices that run a workgroup lane by lane.
    assert_eq!(barriers(&row_sum(8)), 1);
    assert_eq!(barriers(&repeated_sum(8)), 2);
    assert_eq!(barriers(&row_sum(64)), 3);
}

#[test]
fn every_width_and_subgroup_is_valid() {
    for width in (0..=8).map(|bit| 1 << bit) {
        for subgroup in [None, Some(4), Some(8), Some(32), Some(64)] {
            for native in [true, false] {
                let options = LowerOptions {
                    subgroup,
                    native_pack_half: native,
                    native_unpack_half: native,
                    ..LowerOptions::default()
                };
                for kernel in [row_sum(width), matvec()] {
                    validate(&lower(&kernel, &options).expect("lowers")).expect("valid");
                }
            }
        }
    }
}
