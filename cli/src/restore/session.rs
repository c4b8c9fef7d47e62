//! Telling the control plane how far the restore is. It never holds the restore up: steps are sent in
//! order by a task of their own, and when they cannot be, the restore goes on.

use std::{sync::Arc, time::Duration};

use tokio::{sync::mpsc, task::JoinHandle, time};
use walwarden_client::{ClientError, RetryPolicy, worker::JobSession};
use walwarden_contract::worker::{Finish, HEARTBEAT_SECONDS, Heartbeat, HeartbeatAction, JobStatus, Transition};

use crate::{output::Progress, stop::Stop};

/// Longest wait for steps that are still to be sent when a restore is over.
const DRAIN: Duration = Duration::from_secs(20);

/// Longest wait for the result to be taken.
const FINISH: Duration = Duration::from_secs(60);

/// Sends steps and signs of life of one restore, if there is anyone to tell.
pub struct Reporter(Option<Line>);

struct Line {
    session: JobSession,
    steps: mpsc::UnboundedSender<Transition>,
    sending: JoinHandle<()>,
    beating: JoinHandle<()>,
}

impl Reporter {
    /// Starts reporting. A cancelled job asks `stop`.
    pub fn start(session: JobSession, progress: Arc<Progress>, stop: Stop) -> Self {
        let (steps, queue) = mpsc::unbounded_channel();
        let sending = tokio::spawn(send(session.clone(), queue, stop.clone()));
        let beating = tokio::spawn(beat(session.with_retry(RetryPolicy::ONCE), progress, stop));
        Self(Some(Line { session, steps, sending, beating }))
    }

    /// Of a restore that nobody is told of.
    pub fn silent() -> Self {
        Self(None)
    }

    /// Reports a step, some time soon.
    pub fn step(&self, step: Transition) {
        if let Some(line) = &self.0 {
            let _ = line.steps.send(step);
        }
    }

    /// Reports a last step and waits a while for it to arrive.
    pub async fn end_with(self, last: Option<Transition>) {
        if let Some(last) = last {
            self.step(last);
        }
        self.drain().await;
    }

    /// Reports the result. `None` where there is nobody to tell, `Err` where it did not arrive, or was refused.
    pub async fn finish(self, finish: &Finish) -> Option<Result<JobStatus, ClientError>> {
        let session = self.0.as_ref()?.session.clone();
        self.drain().await;
        Some(time::timeout(FINISH, session.finish(finish)).await.unwrap_or_else(|_| {
            Err(ClientError::Network {
                what: "finish the job",
                origin: "the server".into(),
                reason: "timed out".into(),
            })
        }))
    }

    async fn drain(self) {
        let Some(Line { steps, mut sending, beating, .. }) = self.0 else { return };
        drop(steps);
        beating.abort();
        if time::timeout(DRAIN, &mut sending).await.is_err() {
            sending.abort();
        }
    }
}

async fn send(session: JobSession, mut queue: mpsc::UnboundedReceiver<Transition>, stop: Stop) {
    while let Some(step) = queue.recv().await {
        match session.transition(&step).await {
            Ok(status) if status.state == "cancelled" => stop.cancel(),
            Ok(_) => {}
            // A step the server already has, or one that a watchdog made moot: the result is what counts.
            Err(error) => tracing::debug!(%error, "a step was not taken"),
        }
    }
}

async fn beat(session: JobSession, progress: Arc<Progress>, stop: Stop) {
    let mut every = time::interval(Duration::from_secs(HEARTBEAT_SECONDS));
    every.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let (phase, bytes, total, bytes_per_second) = progress.read();
        let total_bytes = (total > 0).then_some(total);
        let heartbeat = Heartbeat { phase: phase.into(), bytes, total_bytes, bytes_per_second, eta_seconds: None };
        match session.heartbeat(&heartbeat).await {
            Ok(answer) if answer.action == HeartbeatAction::Cancel => stop.cancel(),
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "a heartbeat did not arrive"),
        }
    }
}
