//! Async clients behind blocking calls that work inside and outside of a runtime.

use std::future::Future;
use std::sync::{LazyLock, mpsc};

// One runtime for the process, never dropped: dropping a runtime inside an async test panics.
static RUNTIME: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("test-support")
        .enable_all()
        .build()
        .expect("a runtime for the test support")
});

/// Runs a future to its end on a runtime of its own.
pub(crate) fn wait<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    RUNTIME.spawn(async move {
        let _ = sender.send(future.await);
    });
    receiver.recv().expect("the test support's own task panicked")
}
