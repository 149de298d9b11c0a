//! Reads by io_uring: one thread gives them to the kernel and takes what comes.

#![allow(unsafe_code, reason = "the kernel writes to memory that it is told of")]

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::Arc;
use std::thread::JoinHandle;

use io_uring::{IoUring, Probe, opcode, types};

use super::file::{blocks, fill, progress};
use super::shared::{Job, Lease, Shared};

/// What marks that the thread was woken.
const WOKEN: u64 = u64::MAX;

/// A read that the kernel has.
struct Flight {
    job: Job,
    lease: Lease,
    /// Bytes of the window that are there.
    done: usize,
}

/// Starts the thread. Gives it, whether the memory is registered, and if it is not, why.
///
/// # Errors
/// Why the kernel does not do it.
pub(crate) fn start(
    shared: &Arc<Shared>,
    depth: usize,
    register: bool,
) -> Result<(JoinHandle<()>, bool, Option<String>), String> {
    // A place for each read, and one for waking.
    let entries = (depth + 1).next_power_of_two() as u32;
    let ring = IoUring::new(entries).map_err(|e| e.to_string())?;
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe).map_err(|e| format!("what it can do is not said: {e}"))?;
    let needed = [opcode::Read::CODE, opcode::ReadFixed::CODE, opcode::PollAdd::CODE];
    if !needed.iter().all(|code| probe.is_supported(*code)) {
        return Err("this kernel's lacks reads".to_owned());
    }
    let (base, bytes) = shared.whole();
    let memory = libc::iovec { iov_base: base.cast(), iov_len: bytes };
    let registered = match register {
        // SAFETY: the memory lives as long as `shared`, which the thread holds while the ring does.
        true => unsafe { ring.submitter().register_buffers(&[memory]) },
        false => Err(io::Error::other("not asked for")),
    };
    // SAFETY: a call without addresses; the descriptor is this process's new own.
    let event = unsafe {
        let fd = libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC);
        if fd < 0 {
            return Err(io::Error::last_os_error().to_string());
        }
        File::from_raw_fd(fd)
    };
    let waker = event.try_clone().map_err(|e| e.to_string())?;
    // A counter that is full wakes as well.
    let wake = move || drop((&waker).write(&1u64.to_ne_bytes()));
    let fixed = registered.is_ok();
    let mut reads = Reads { shared: Arc::clone(shared), ring, event, fixed, flights: vec![] };
    reads.flights.resize_with(depth, || None);
    let thread = std::thread::Builder::new().name("swiftlm-disk".to_owned());
    let thread = thread.spawn(move || reads.run()).map_err(|e| e.to_string())?;
    let _ = shared.waker.set(Box::new(wake));
    let reason = registered.err().map(|e| format!("the kernel does not keep {bytes} bytes mapped ({e})"));
    Ok((thread, fixed, reason))
}

struct Reads {
    shared: Arc<Shared>,
    ring: IoUring,
    event: File,
    fixed: bool,
    flights: Vec<Option<Flight>>,
}

impl Reads {
    fn run(mut self) {
        let mut listening = false;
        let mut again: Vec<usize> = vec![];
        let mut came: Vec<(u64, i32)> = vec![];
        loop {
            if !self.begin(&mut again) {
                return;
            }
            again.drain(..).for_each(|at| self.push(at));
            if !listening {
                let poll = opcode::PollAdd::new(types::Fd(self.event.as_raw_fd()), libc::POLLIN as u32);
                // SAFETY: no memory is given; the descriptor lives as long as the ring.
                unsafe { self.enqueue(&poll.build().user_data(WOKEN)) };
                listening = true;
            }
            match self.ring.submit_and_wait(1) {
                Ok(_) => {}
                Err(e) if matches!(e.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY)) => {}
                Err(e) => return self.give_up(&e),
            }
            self.shared.lock().asleep = false;
            came.extend(self.ring.completion().map(|entry| (entry.user_data(), entry.result())));
            for (which, result) in came.drain(..) {
                if which == WOKEN {
                    // It only says that there is something to do.
                    let _ = (&self.event).read(&mut [0; 8]);
                    listening = false;
                } else if !self.land(which as usize, result) {
                    again.push(which as usize);
                }
            }
        }
    }

    /// Takes what waits, as much as there is room for; says whether there is anything left to do.
    fn begin(&mut self, again: &mut Vec<usize>) -> bool {
        let shared = Arc::clone(&self.shared);
        let mut state = shared.lock();
        for (at, place) in self.flights.iter_mut().enumerate().filter(|(_, place)| place.is_none()) {
            let Some((job, lease)) = shared.take(&mut state) else { break };
            *place = Some(Flight { job, lease, done: 0 });
            again.push(at);
        }
        state.asleep = true;
        !state.ended || self.flights.iter().any(Option::is_some)
    }

    /// Gives a read, or what is left of it, to the kernel.
    fn push(&mut self, at: usize) {
        let Some(flight) = &mut self.flights[at] else { return };
        let request = flight.job.request;
        let (first, ..) = blocks(request.start, request.bytes);
        let file = types::Fd(self.shared.files[request.file].as_raw_fd());
        let (window, _) = flight.lease.window();
        let rest = &mut window[flight.done..];
        let (to, bytes, from) = (rest.as_mut_ptr(), rest.len() as u32, first + flight.done as u64);
        let entry = match self.fixed {
            true => opcode::ReadFixed::new(file, to, bytes, 0).offset(from).build(),
            false => opcode::Read::new(file, to, bytes).offset(from).build(),
        };
        // SAFETY: the flight holds the memory until the kernel says that it is done, and `shared` holds the file.
        unsafe { self.enqueue(&entry.user_data(at as u64)) }
    }

    /// # Safety
    /// What the entry names lives until it completes.
    unsafe fn enqueue(&mut self, entry: &io_uring::squeue::Entry) {
        // SAFETY: the caller's.
        while unsafe { self.ring.submission().push(entry) }.is_err() {
            // There is a place for each read and one for waking, unless the kernel left some behind.
            let _ = self.ring.submit();
        }
    }

    /// What the kernel says of a read; `false` if it must have it again.
    fn land(&mut self, at: usize, result: i32) -> bool {
        let Some(place) = self.flights.get_mut(at) else { return true };
        let Some(flight) = place else { return true };
        let wished = flight.lease.window().1;
        let outcome = match result {
            error if matches!(-error, libc::EINTR | libc::EAGAIN) => return false,
            error if error < 0 => Err(io::Error::from_raw_os_error(-error)),
            n => progress(flight.done, n as usize, wished),
        };
        let result = match outcome {
            Ok(Some(so_far)) => {
                flight.done = so_far;
                return false;
            }
            Ok(None) => Ok(()),
            Err(e) => Err(e),
        };
        if let Some(Flight { job, lease, .. }) = place.take() {
            job.finish(result.map(|()| lease));
        }
        true
    }

    /// The kernel takes nothing any more: nobody knows what it still writes to, so that memory is never used again.
    fn give_up(mut self, error: &io::Error) {
        let again = || io::Error::new(error.kind(), format!("io_uring failed: {error}"));
        for Flight { job, lease, .. } in self.flights.iter_mut().filter_map(Option::take) {
            std::mem::forget(lease);
            job.finish(Err(again()));
        }
        loop {
            let mut state = self.shared.lock();
            let (job, mut lease) = loop {
                if state.ended {
                    return;
                }
                if let Some(next) = self.shared.take(&mut state) {
                    break next;
                }
                state = self.shared.wait(state);
            };
            drop(state);
            let (first, ..) = blocks(job.request.start, job.request.bytes);
            let (window, wished) = lease.window();
            let result = fill(&self.shared.files[job.request.file], first, window, wished);
            job.finish(result.map(|()| lease));
        }
    }
}
