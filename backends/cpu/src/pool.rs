//! A persistent pool of threads that share the tasks of one launch at a time.
//!
//! Tasks are handed out one by one through a counter, so a slow core does not hold up the rest. A thread that has not
//! woken when the last task is taken is not waited for. Nothing is allocated per launch.

#![allow(unsafe_code, reason = "workers call a closure that is borrowed for the duration of a launch")]

use std::cell::UnsafeCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;

/// How often a thread looks for work before it sleeps; some tens of microseconds.
const SPINS: u32 = 4_000;
/// The gate admits workers.
const OPEN: u64 = 1 << 31;
/// Unit of the launch number in the gate; below lie [`OPEN`] and the count of workers inside.
const LAUNCH: u64 = 1 << 32;

type Task<'a> = dyn Fn(usize, usize) + Sync + 'a;

/// The pool. Dropping it ends its threads.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

struct Shared {
    /// Launch number, whether workers may enter, workers inside.
    gate: AtomicU64,
    /// Next task.
    next: AtomicUsize,
    /// Written only while the gate is closed and empty.
    job: UnsafeCell<Job>,
    asleep: Vec<AtomicBool>,
    panicked: AtomicBool,
    ending: AtomicBool,
}

#[derive(Clone, Copy)]
struct Job {
    call: *const Task<'static>,
    tasks: usize,
}

// SAFETY: `job` is written by the owner while no worker is inside the gate, and read by workers inside only.
unsafe impl Sync for Shared {}
// SAFETY: the pointer in `job` is used only while the launch that it belongs to runs.
unsafe impl Send for Shared {}

impl Pool {
    /// A pool of `threads` threads, the caller's included.
    pub(crate) fn new(threads: usize) -> Self {
        let helpers = threads.max(1) - 1;
        let nothing: &'static Task<'static> = &|_, _| {};
        let shared = Arc::new(Shared {
            gate: AtomicU64::new(0),
            next: AtomicUsize::new(0),
            job: UnsafeCell::new(Job { call: nothing, tasks: 0 }),
            asleep: (0..helpers).map(|_| AtomicBool::new(false)).collect(),
            panicked: AtomicBool::new(false),
            ending: AtomicBool::new(false),
        });
        let spawn = |i: usize| {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new().name(format!("swiftlm-cpu-{}", i + 1)).spawn(move || shared.work(i + 1))
        };
        // A thread that the system refuses is one helper less; the pool works with none.
        let workers = (0..helpers).map_while(|i| spawn(i).ok()).collect();
        Self { shared, workers }
    }

    /// Threads that may run tasks, the caller's included.
    pub(crate) fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `call(worker, task)` for every task below `tasks` and returns when all are done. `worker` is below
    /// [`Self::threads`] and belongs to one thread at a time. Not to be called from inside a task.
    pub(crate) fn run(&self, tasks: usize, call: &Task<'_>) {
        if tasks <= 1 || self.workers.is_empty() {
            (0..tasks).for_each(|task| call(0, task));
            return;
        }
        let shared = &*self.shared;
        // SAFETY: the lifetime is erased, and this function does not return before every worker has left the gate.
        let call_static = unsafe { std::mem::transmute::<&Task<'_>, &'static Task<'static>>(call) };
        // SAFETY: the gate is closed and empty: only this thread opens it, and it waited for the last launch to end.
        unsafe { *shared.job.get() = Job { call: call_static, tasks } };
        shared.next.store(0, Ordering::Relaxed);
        shared.panicked.store(false, Ordering::Relaxed);
        let launch = shared.gate.load(Ordering::Relaxed) & !(LAUNCH - 1);
        // Sequential consistency pairs with the worker's: it sees the open gate, or its flag is seen here.
        shared.gate.store(launch.wrapping_add(LAUNCH) | OPEN, Ordering::SeqCst);
        for (worker, asleep) in self.workers.iter().zip(&shared.asleep).take(tasks - 1) {
            if asleep.swap(false, Ordering::SeqCst) {
                worker.thread().unpark();
            }
        }
        let close = CloseOnDrop(shared);
        shared.take_tasks(0, Job { call: call_static, tasks });
        drop(close);
        assert!(!shared.panicked.swap(false, Ordering::Relaxed), "a task panicked on a helper thread");
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.ending.store(true, Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A worker's panic was reported by the launch that it happened in.
            let _ = worker.join();
        }
    }
}

/// Closes the gate and waits until it is empty, also when a task panics on the owner's thread.
struct CloseOnDrop<'a>(&'a Shared);

impl Drop for CloseOnDrop<'_> {
    fn drop(&mut self) {
        let mut gate = self.0.gate.fetch_and(!OPEN, Ordering::AcqRel) & !OPEN;
        let mut spins = 0;
        while gate & (OPEN - 1) != 0 {
            wait(&mut spins);
            gate = self.0.gate.load(Ordering::Acquire);
        }
    }
}

/// Leaves the gate, also when a task panics.
struct LeaveOnDrop<'a>(&'a Shared);

impl Drop for LeaveOnDrop<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.panicked.store(true, Ordering::Relaxed);
        }
        self.0.gate.fetch_sub(1, Ordering::Release);
    }
}

/// Spins, and lets others run once it has spun for long: the awaited thread may need this core.
fn wait(spins: &mut u32) {
    *spins += 1;
    if *spins < SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
}

impl Shared {
    fn take_tasks(&self, worker: usize, job: Job) {
        loop {
            let task = self.next.fetch_add(1, Ordering::Relaxed);
            if task >= job.tasks {
                return;
            }
            // SAFETY: the launch that owns the closure waits for this thread to leave the gate.
            unsafe { (*job.call)(worker, task) };
        }
    }

    /// Enters the gate if it is open for a launch other than `last`; gives the launch.
    fn enter(&self, last: u64) -> Option<u64> {
        let mut gate = self.gate.load(Ordering::SeqCst);
        while gate & OPEN != 0 && gate / LAUNCH != last {
            match self.gate.compare_exchange_weak(gate, gate + 1, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return Some(gate / LAUNCH),
                Err(now) => gate = now,
            }
        }
        None
    }

    fn work(&self, worker: usize) {
        let asleep = &self.asleep[worker - 1];
        let (mut last, mut idle) = (0, 0);
        while !self.ending.load(Ordering::SeqCst) {
            if let Some(launch) = self.enter(last) {
                asleep.store(false, Ordering::Relaxed);
                let leave = LeaveOnDrop(self);
                // SAFETY: this thread is inside the gate, so the owner does not write.
                self.take_tasks(worker, unsafe { *self.job.get() });
                drop(leave);
                (last, idle) = (launch, 0);
            } else if idle < SPINS {
                idle += 1;
                std::hint::spin_loop();
            } else if asleep.swap(true, Ordering::SeqCst) {
                // Already announced, and looked once more since.
                std::thread::park();
            }
        }
    }
}

/// A value for each worker of a pool, reachable only while its worker runs.
pub(crate) struct PerWorker<T>(Vec<std::sync::Mutex<T>>);

impl<T> PerWorker<T> {
    /// `threads` values.
    pub(crate) fn new(threads: usize, make: impl Fn() -> T) -> Self {
        Self((0..threads).map(|_| std::sync::Mutex::new(make())).collect())
    }

    /// The worker's value; never contended.
    pub(crate) fn with<R>(&self, worker: usize, f: impl FnOnce(&mut T) -> R) -> R {
        let mut guard = self.0[worker].lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        f(&mut guard)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once_in_every_launch() {
        for threads in 1..5 {
            let pool = Pool::new(threads);
            for launch in 0..4_000 {
                let tasks = launch % 9;
                let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                pool.run(tasks, &|worker, task| {
                    assert!(worker < pool.threads());
                    counts[task].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|n| n.load(Ordering::Relaxed) == 1), "{threads} threads, launch {launch}");
                if launch % 1_000 == 0 {
                    // Long enough for helpers to fall asleep.
                    std::thread::sleep(std::time::Duration::from_millis(20));
                }
            }
        }
    }

    #[test]
    fn a_panic_in_a_task_reaches_the_caller_and_the_pool_goes_on() {
        let pool = Pool::new(3);
        for bad in 0..8 {
            let run = || pool.run(8, &|_, task| assert!(task != bad, "expected"));
            assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err());
            let count = AtomicUsize::new(0);
            pool.run(8, &|_, _| {
                count.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(count.into_inner(), 8);
        }
    }
}
