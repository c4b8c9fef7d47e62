//! The life of one runner process: claim, work under a heartbeat, report the end.

use std::time::Duration;

use anyhow::Context;
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use walwarden_client::{
    ApiClient, RetryPolicy,
    worker::{JobSession, SessionSecret, claim},
};
use walwarden_contract::{
    errors::ErrorCode,
    exit::ExitCode,
    failure::FailureClass,
    worker::{HEARTBEAT_SECONDS, Heartbeat, HeartbeatAction, Instructions, Transition},
};

use crate::{
    backup, check,
    config::Config,
    fault::{Ended, Fault},
    progress::{Phase, Progress},
};

const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Rides out a deployment of the control plane; a dump of hours is worth the wait.
const RETRY: RetryPolicy =
    RetryPolicy { attempts: 14, first_pause: Duration::from_millis(250), longest_pause: Duration::from_secs(30) };
/// The host kills ten seconds or more after it asked.
const FAREWELL: Duration = Duration::from_secs(6);
/// How long a failure's report is tried otherwise.
const REPORT_TIMEOUT: Duration = Duration::from_secs(120);
/// How long the outcome is waited for after `finish` was accepted.
const SEAL_PATIENCE: Duration = Duration::from_secs(60);

/// Does the job.
pub async fn run(config: Config) -> anyhow::Result<ExitCode> {
    let version = concat!("walwarden-runner/", env!("CARGO_PKG_VERSION"));
    let client =
        ApiClient::new(&config.worker_url, version, CALL_TIMEOUT).context("WALWARDEN_WORKER_URL")?.with_retry(RETRY);
    let secret = SessionSecret::generate().context("drawing the session's secret")?;
    let claimed =
        claim(&client, &config.org_id, &config.job_id, config.claim_secret.clone(), &secret, env!("CARGO_PKG_VERSION"));
    let session = match claimed.await {
        Ok((response, session)) => {
            tracing::info!(job = %response.job_id, attempt = response.attempt, "claimed");
            session
        }
        Err(error) => {
            // Nobody listens to a runner that claimed nothing.
            tracing::error!("{error}");
            return Ok(error.exit_code());
        }
    };
    let progress = Progress::default();
    let ended = tokio::select! {
        ended = work(&config, &session, &progress) => ended,
        reason = heart(&session, &progress) => Err(Ended::Cancelled(reason)),
        interrupted = terminated() => match interrupted {
            Ok(()) => Err(Fault::plain(FailureClass::RunnerTerminated).into()),
            Err(error) => Err(Fault::internal("listening for signals", error).into()),
        },
    };
    match ended {
        Ok(()) => {
            await_outcome(&session).await;
            Ok(ExitCode::Ok)
        }
        Err(Ended::Cancelled(reason)) => {
            tracing::info!("stopping: {reason}");
            Ok(ExitCode::Cancelled)
        }
        Err(Ended::Failed(fault)) => {
            tracing::error!("{fault}");
            report(&session, &fault).await;
            Ok(fault.exit_code())
        }
    }
}

async fn work(config: &Config, session: &JobSession, progress: &Progress) -> Result<(), Ended> {
    let private = tempfile::Builder::new()
        .prefix("walwarden-")
        .tempdir_in(&config.machine.work_dir)
        .map_err(|e| Fault::internal("creating a private directory", e))?;
    match session.instructions().await? {
        Instructions::Backup(backup) => backup::run(&backup, session, &config.machine, private.path(), progress).await,
        Instructions::Check(check) => check::run(&check, session, &config.machine, progress).await,
        Instructions::Restore(_) => {
            Err(Fault::new(FailureClass::Internal, "the job is a restore, which the CLI does").into())
        }
    }
}

/// Signs of life; ends only with an order to stop, and says which.
async fn heart(session: &JobSession, progress: &Progress) -> &'static str {
    let every = Duration::from_secs(HEARTBEAT_SECONDS);
    let session = session.with_retry(RetryPolicy::ONCE);
    let mut tick = interval(every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut last_bytes, mut last_at) = (0, Instant::now());
    loop {
        tick.tick().await;
        if progress.phase() == Phase::Finishing {
            // `finish` moves the job on; an answer to a late heartbeat could be taken for a cancellation.
            continue;
        }
        let (bytes, now) = (progress.raw_bytes(), Instant::now());
        let milliseconds = u64::try_from((now - last_at).as_millis()).unwrap_or(u64::MAX).max(1);
        let heartbeat = Heartbeat {
            phase: progress.phase().as_str().into(),
            bytes,
            total_bytes: progress.total_bytes(),
            bytes_per_second: (bytes - last_bytes).saturating_mul(1000) / milliseconds,
            eta_seconds: progress.eta_seconds(),
        };
        (last_bytes, last_at) = (bytes, now);
        match timeout(every, session.heartbeat(&heartbeat)).await {
            Ok(Ok(response)) if response.action == HeartbeatAction::Cancel => return "cancelled by the control plane",
            Ok(Ok(_)) => {}
            Ok(Err(error)) => match error.code() {
                // A `finish` may be under way since this heartbeat was sent.
                Some(ErrorCode::StateConflict | ErrorCode::Unauthorized) if progress.phase() != Phase::Finishing => {
                    return "the job is no longer this runner's";
                }
                _ => tracing::debug!("a heartbeat failed: {error}"),
            },
            Err(_) => tracing::debug!("a heartbeat took too long"),
        }
    }
}

async fn terminated() -> std::io::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

async fn report(session: &JobSession, fault: &Fault) {
    let patience = if fault.class == FailureClass::RunnerTerminated { FAREWELL } else { REPORT_TIMEOUT };
    let failed = Transition::Failed { class: fault.class, detail: fault.detail.clone() };
    match timeout(patience, session.transition(&failed)).await {
        Ok(Ok(_)) => {}
        // The watchdog will find out.
        Ok(Err(error)) => tracing::error!("the failure could not be reported: {error}"),
        Err(_) => tracing::error!("the failure could not be reported in time"),
    }
}

/// The control plane seals by itself from here on; waiting only lets our log tell how it went.
async fn await_outcome(session: &JobSession) {
    let session = session.with_retry(RetryPolicy::ONCE);
    let watch = async {
        let mut pause = Duration::from_millis(250);
        loop {
            match session.state().await {
                Ok(status) if status.r#final || status.failure.is_some() => break status.state,
                Ok(_) => {}
                Err(error) => tracing::debug!("{error}"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(5));
        }
    };
    match timeout(SEAL_PATIENCE, watch).await {
        Ok(state) => tracing::info!(state, "done"),
        Err(_) => tracing::info!("done; the control plane is still sealing"),
    }
}
