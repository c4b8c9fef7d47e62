//! `sentinel` ticks: each minute on AWS, every few seconds in one process. It looks at what is due and hands
//! out errands.

use std::sync::Arc;

use walwarden_core::{Domain, error::Result, sweep::Errand};

use crate::callers::{DispatchCaller, WorkerCaller};

/// The function.
#[derive(Clone)]
pub struct Sentinel {
    /// The domain.
    pub domain: Arc<Domain>,
    /// The way to `worker`.
    pub worker: WorkerCaller,
    /// The way to `dispatch`.
    pub dispatch: DispatchCaller,
}

impl Sentinel {
    /// One sweep over what is due.
    pub async fn sweep(&self) -> Result<()> {
        let errands = self.domain.sweep().await?;
        self.run(errands).await;
        Ok(())
    }

    /// One look at the local schedule; on AWS, EventBridge Scheduler does this.
    pub async fn ticks(&self) -> Result<()> {
        let errands = self.domain.ticks().await?;
        self.run(errands).await;
        Ok(())
    }

    async fn run(&self, errands: Vec<Errand>) {
        for errand in errands {
            match errand {
                Errand::Worker(call) => self.worker.send(call).await,
                Errand::Launch(org, job) => self.dispatch.launch(org, job).await,
            }
        }
    }
}
