//! Work that a request has left to do when its response is ready.

use tokio::runtime::Handle;

/// Runs `work` beside what comes next: nobody waits for it. Outside a runtime it is dropped.
pub(crate) fn defer(work: impl Future<Output = ()> + Send + 'static) {
    if let Ok(runtime) = Handle::try_current() {
        runtime.spawn(work);
    }
}
