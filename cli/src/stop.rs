//! Being asked to stop: by a signal, or by the control plane's answer to a heartbeat.

use std::{future::Future, process};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use walwarden_contract::exit::ExitCode;

use crate::failure::Failure;

/// Who asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Ctrl-C, SIGTERM or SIGHUP.
    Signal,
    /// Someone cancelled the job.
    Cancelled,
}

/// Whether to stop; clones see the same.
#[derive(Clone)]
pub struct Stop {
    sender: watch::Sender<Option<Cause>>,
}

impl Stop {
    /// Listens for signals. The first asks for an orderly end, a second ends at once.
    pub fn install() -> Result<Self, Failure> {
        let (sender, _) = watch::channel(None);
        let failed = |error| Failure::internal(format!("could not listen for signals: {error}"));
        for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
            let mut signals = signal(kind).map_err(failed)?;
            let sender = sender.clone();
            tokio::spawn(async move {
                while signals.recv().await.is_some() {
                    if *sender.borrow() == Some(Cause::Signal) {
                        process::exit(ExitCode::Cancelled as i32);
                    }
                    sender.send_replace(Some(Cause::Signal));
                }
            });
        }
        Ok(Self { sender })
    }

    /// Asks on behalf of the control plane; a signal has precedence.
    pub fn cancel(&self) {
        self.sender.send_if_modified(|cause| cause.is_none().then(|| *cause = Some(Cause::Cancelled)).is_some());
    }

    /// Why to stop, if at all.
    pub fn cause(&self) -> Option<Cause> {
        *self.sender.borrow()
    }

    /// Waits until someone asks.
    pub async fn asked(&self) -> Cause {
        let mut receiver = self.sender.subscribe();
        match receiver.wait_for(Option::is_some).await.map(|cause| *cause) {
            Ok(Some(cause)) => cause,
            _ => std::future::pending().await,
        }
    }

    /// Waits for a signal only: once the target is being written, the control plane no longer decides.
    pub async fn signalled(&self) {
        let mut receiver = self.sender.subscribe();
        if receiver.wait_for(|cause| *cause == Some(Cause::Signal)).await.is_err() {
            std::future::pending().await
        }
    }

    /// `work`, unless asked to stop before it is done.
    pub async fn unless<T>(&self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        tokio::select! {
            biased;
            cause = self.asked() => Err(stopped(cause)),
            done = work => done,
        }
    }

    /// `work`, unless interrupted by a signal before it is done.
    pub async fn unless_signalled<T>(&self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        tokio::select! {
            biased;
            () = self.signalled() => Err(stopped(Cause::Signal)),
            done = work => done,
        }
    }
}

/// The failure of a command that was asked to stop.
pub fn stopped(cause: Cause) -> Failure {
    let (message, hint) = match cause {
        Cause::Signal => ("interrupted", "issue a new restore token to start again"),
        Cause::Cancelled => ("the restore was cancelled from Walwarden", "issue a new restore token to start again"),
    };
    Failure { exit: ExitCode::Cancelled, code: "cancelled".into(), ..Failure::user("", message).hint(hint) }
}
