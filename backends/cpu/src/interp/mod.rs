//! The interpreter of kernel IR: truth for kernels.
//!
//! A workgroup's lanes run in step: each expression is one loop over all lanes. Nothing here knows what a kernel is for.

mod arithmetic;
mod exec;
mod fault;
mod lower;
mod program;

use std::sync::Mutex;
use std::sync::atomic::AtomicU32;

use swiftlm_device::DeviceError;
use swiftlm_ir::kernel::Kernel;
use swiftlm_ir::plan::StepSizes;

use crate::pool::{PerWorker, Pool};
use exec::Run;
pub(crate) use exec::Scratch;
pub(crate) use lower::lower;
pub(crate) use program::Program;

/// Runs every workgroup of a grid, shared among the pool's threads. Workgroups must not depend on one another.
///
/// # Errors
/// The fault of the first faulty workgroup in grid order, among those that ran before the others stopped.
pub(crate) fn launch(
    program: &Program,
    args: &[&[AtomicU32]],
    grid: [u32; 3],
    sizes: StepSizes,
    pool: &Pool,
    scratch: &PerWorker<Scratch>,
) -> Result<(), DeviceError> {
    let groups = grid.iter().map(|n| *n as usize).product::<usize>();
    let chunk = groups.div_ceil(8 * pool.threads()).max(1);
    let evaluate = arithmetic::best();
    let failed: Mutex<Option<(usize, DeviceError)>> = Mutex::new(None);
    let preceded = |at: usize| failed.lock().map_or(true, |f| f.as_ref().is_some_and(|(before, _)| *before < at));
    pool.run(groups.div_ceil(chunk), &|worker, task| {
        scratch.with(worker, |scratch| {
            scratch.reserve(program);
            let mut run = Run::new(program, args, sizes.words(), evaluate, scratch);
            for at in task * chunk..((task + 1) * chunk).min(groups) {
                let (x, rest) = (at as u32 % grid[0], at as u32 / grid[0]);
                let group = [x, rest % grid[1], rest / grid[1]];
                if let Err(fault) = run.group(group) {
                    if !preceded(at)
                        && let Ok(mut failed) = failed.lock()
                    {
                        *failed = Some((at, fault.error(program, group)));
                    }
                    return;
                }
            }
        });
    });
    match failed.into_inner() {
        Ok(Some((_, error))) => Err(error),
        _ => Ok(()),
    }
}

/// Runs a kernel once on the calling thread, for tests: `args` are little-endian bytes in binding order, changed in
/// place; their lengths are multiples of 4.
///
/// # Errors
/// [`DeviceError::Kernel`] for a malformed kernel, for arguments that are too few or of odd length, and for any access
/// out of bounds, naming the argument and the index.
pub fn run(kernel: &Kernel, args: &mut [&mut [u8]], grid: [u32; 3], sizes: StepSizes) -> Result<(), DeviceError> {
    let program = lower(kernel)?;
    let refuse = |reason| Err(DeviceError::Kernel { kernel: program.name.clone(), reason });
    if args.len() != kernel.args.len() {
        return refuse(format!("{} arguments given, it has {}", args.len(), kernel.args.len()));
    }
    if let Some(odd) = args.iter().position(|a| !a.len().is_multiple_of(4)) {
        let name = &kernel.args[odd].name;
        return refuse(format!("argument `{name}` has {} bytes: expected a multiple of 4", args[odd].len()));
    }
    let word = |b: &[u8]| AtomicU32::new(u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    let memory: Vec<Vec<AtomicU32>> = args.iter().map(|a| a.chunks_exact(4).map(word).collect()).collect();
    let views: Vec<&[AtomicU32]> = memory.iter().map(Vec::as_slice).collect();
    launch(&program, &views, grid, sizes, &Pool::new(1), &PerWorker::new(1, Scratch::default))?;
    for (bytes, words) in args.iter_mut().zip(memory) {
        for (bytes, word) in bytes.chunks_exact_mut(4).zip(words) {
            bytes.copy_from_slice(&word.into_inner().to_le_bytes());
        }
    }
    Ok(())
}
