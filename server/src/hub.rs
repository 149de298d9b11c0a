//! Where a model named on the command line lies: a directory, the hub's cache, or the hub.

use std::path::PathBuf;

use swiftlm_driver::hub::{HubError, Progress as Download, resolve};

use crate::progress::Progress;

/// The model's directory, downloaded if need be.
///
/// # Errors
/// It is neither a directory nor on the hub, or the download failed.
pub fn find(model: &str, progress: &Progress) -> Result<PathBuf, HubError> {
    resolve(model, &mut |step: Download<'_>| {
        progress.report("download", step.all_done as f64 / step.all_total.max(1) as f64);
    })
}
