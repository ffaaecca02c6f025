//! Workers on threads of their own.

use anyhow::{Context as _, anyhow};
use tokio::task::{JoinSet, LocalSet};

/// Runs `workers` jobs on `threads` threads, each a single-threaded runtime: no job ever moves.
///
/// # Errors
/// The first job's that fails.
pub(super) fn run<T, J, F>(threads: usize, workers: usize, job: J) -> anyhow::Result<Vec<T>>
where
    T: Send + 'static,
    J: Fn(usize) -> F + Sync,
    F: Future<Output = anyhow::Result<T>> + 'static,
{
    let on_thread = &|thread: usize| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        LocalSet::new().block_on(&runtime, async {
            let mut jobs = JoinSet::new();
            for worker in (thread..workers).step_by(threads) {
                jobs.spawn_local(job(worker));
            }
            let mut done = Vec::new();
            while let Some(work) = jobs.join_next().await {
                done.push(work.context("a worker panicked")??);
            }
            Ok(done)
        })
    };
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads)
            .map(|thread| scope.spawn(move || on_thread(thread)))
            .collect();
        let mut all = Vec::new();
        for thread in running {
            let done: anyhow::Result<Vec<T>> = thread
                .join()
                .unwrap_or_else(|_panic| Err(anyhow!("a thread of workers panicked")));
            all.extend(done?);
        }
        Ok(all)
    })
}
