//! What went wrong on a device, wherever wgpu reports it: error scopes, the uncaptured-error handler, the loss callback.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use swiftlm_device::DeviceError;
use wgpu::ErrorFilter;

/// The first failure that no error scope caught.
#[derive(Clone, Debug)]
pub(crate) struct Health {
    name: String,
    failure: Arc<Mutex<Option<DeviceError>>>,
}

impl Health {
    /// Listens to a device.
    pub(crate) fn watch(name: &str, device: &wgpu::Device) -> Self {
        let health = Self { name: name.to_owned(), failure: Arc::new(Mutex::new(None)) };
        let listener = health.clone();
        device.on_uncaptured_error(Arc::new(move |error| listener.record(listener.failed(&error))));
        let listener = health.clone();
        device.set_device_lost_callback(move |reason, message| {
            // Dropping the device is not a loss.
            if reason != wgpu::DeviceLostReason::Destroyed {
                listener.record(listener.lost(message));
            }
        });
        health
    }

    /// The adapter's name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// An error of this device in the driver's words.
    pub(crate) fn lost(&self, reason: impl ToString) -> DeviceError {
        DeviceError::Lost { device: self.name.clone(), reason: reason.to_string() }
    }

    /// The failure, if there was one; a device does not recover.
    pub(crate) fn check(&self) -> Result<(), DeviceError> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone().map_or(Ok(()), Err)
    }

    /// Waits until everything submitted has run.
    pub(crate) fn wait(&self, device: &wgpu::Device) -> Result<(), DeviceError> {
        device.poll(wgpu::PollType::wait_indefinitely()).map_err(|e| self.lost(e))?;
        self.check()
    }

    fn failed(&self, error: &wgpu::Error) -> DeviceError {
        match error {
            wgpu::Error::OutOfMemory { source } => DeviceError::OutOfMemory {
                device: self.name.clone(),
                bytes: 0,
                what: "a submission".to_owned(),
                reason: source.to_string(),
            },
            other => self.lost(other),
        }
    }

    fn record(&self, error: DeviceError) {
        tracing::error!("{error}");
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }
}

/// Runs `f` and gives the error that wgpu reported meanwhile, if any.
pub(crate) fn scoped<T>(device: &wgpu::Device, f: impl FnOnce() -> T) -> Result<T, wgpu::Error> {
    let filters = [ErrorFilter::OutOfMemory, ErrorFilter::Internal, ErrorFilter::Validation];
    let scopes = filters.map(|filter| device.push_error_scope(filter));
    let value = f();
    let errors: Vec<_> = scopes.into_iter().rev().filter_map(|scope| ready(scope.pop())).collect();
    errors.into_iter().next().map_or(Ok(value), Err)
}

/// The result of a future of wgpu, which outside browsers is ready at once.
pub(crate) fn ready<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return value;
        }
        std::thread::yield_now();
    }
}
