//! `dispatch` starts runners. Schedules fire here; so do ad-hoc backups and the sentinel's retries, so
//! that `backup.queued` always comes first. A runner is given a job id and a claim secret that works once.

use std::{path::PathBuf, process::Stdio, sync::Arc};

use serde::{Deserialize, Serialize};
use tokio::process::Command;
use walwarden_contract::{
    errors::ErrorCode,
    ids::{DatabaseId, JobId, OrgId},
};
use walwarden_core::{
    Domain,
    backups::Launch,
    error::{DomainError, Result},
};

/// A call to `dispatch`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "call", rename_all = "camelCase")]
pub enum DispatchCall {
    /// Start a runner for a queued job.
    Launch {
        /// Organization.
        org: OrgId,
        /// Job.
        job: JobId,
    },
    /// A schedule fired: queue a backup and start a runner.
    Tick {
        /// Organization.
        org: OrgId,
        /// Database.
        database: DatabaseId,
        /// The tick's time, as EventBridge Scheduler gives it (`<aws.scheduler.scheduled-time>`).
        tick: String,
    },
}

/// Where runners run.
pub enum Launcher {
    /// Fargate tasks.
    Ecs(Box<EcsLauncher>),
    /// Child processes of this one.
    Child(ChildLauncher),
}

/// How to run a Fargate task.
pub struct EcsLauncher {
    /// Client.
    pub client: aws_sdk_ecs::Client,
    /// Cluster.
    pub cluster: String,
    /// Task definition.
    pub task_definition: String,
    /// Subnets.
    pub subnets: Vec<String>,
    /// Security groups.
    pub security_groups: Vec<String>,
    /// Where the runner reaches `worker`.
    pub worker_url: String,
}

/// Variables that a runner on this machine takes from this process.
const PASSED_ON: [&str; 11] = [
    "PATH",
    "TMPDIR",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "WALWARDEN_PG_BIN",
    "WALWARDEN_WORK_DIR",
    "WALWARDEN_THREADS",
    "WALWARDEN_PG_DUMP_FLOOR",
    "WALWARDEN_OPAQUE_MAJORS",
    "WALWARDEN_LOCK_WAIT_SECONDS",
    "WALWARDEN_BUCKET_WAIT_SECONDS",
];

/// How to run a child process.
pub struct ChildLauncher {
    /// The runner's program.
    pub program: PathBuf,
    /// Where the runner reaches `worker`.
    pub worker_url: String,
    /// Further environment: where pg_dump is, what to log.
    pub environment: Vec<(String, String)>,
    /// Told to stop when this becomes true; runners then report and end.
    pub stopped: tokio::sync::watch::Receiver<bool>,
}

/// The function.
pub struct Dispatch {
    domain: Arc<Domain>,
    launcher: Launcher,
}

impl Dispatch {
    /// Dispatch over a launcher.
    pub fn new(domain: Arc<Domain>, launcher: Launcher) -> Self {
        Self { domain, launcher }
    }

    /// Carries out a call.
    pub async fn carry_out(&self, call: DispatchCall) -> Result<()> {
        let (org, job) = match call {
            DispatchCall::Launch { org, job } => (org, job),
            DispatchCall::Tick { org, database, tick } => {
                match self.domain.scheduled_backup(&org, &database, &tick).await? {
                    Some(backup) => (org, JobId::Backup(backup)),
                    None => return Ok(()),
                }
            }
        };
        let Some(launch) = self.domain.mint_launch(&org, &job).await? else { return Ok(()) };
        let started = self.start(launch.clone()).await;
        if started.is_err() {
            // Nobody holds that secret: the job need not wait until it lapses.
            self.domain.launch_failed(&launch).await?;
        }
        started
    }

    async fn start(&self, launch: Launch) -> Result<()> {
        match &self.launcher {
            Launcher::Ecs(ecs) => ecs.start(launch).await,
            Launcher::Child(child) => child.start(launch),
        }
    }
}

impl EcsLauncher {
    async fn start(&self, launch: Launch) -> Result<()> {
        use aws_sdk_ecs::types::{
            AssignPublicIp, AwsVpcConfiguration, ContainerOverride, KeyValuePair, LaunchType, NetworkConfiguration,
            TaskOverride,
        };
        let variable = |name: &str, value: &str| KeyValuePair::builder().name(name).value(value).build();
        let container = ContainerOverride::builder()
            .name("runner")
            .environment(variable("WALWARDEN_WORKER_URL", &self.worker_url))
            .environment(variable("WALWARDEN_ORG_ID", launch.org.as_str()))
            .environment(variable("WALWARDEN_JOB_ID", launch.job.as_str()))
            // Readable by whoever may describe tasks: it lives minutes and works once.
            .environment(variable("WALWARDEN_CLAIM_SECRET", launch.secret.expose()))
            .build();
        let vpc = AwsVpcConfiguration::builder()
            .set_subnets(Some(self.subnets.clone()))
            .set_security_groups(Some(self.security_groups.clone()))
            .assign_public_ip(AssignPublicIp::Enabled)
            .build()
            .map_err(|e| DomainError::broken("task network", e))?;
        let token: String = launch.secret.expose().chars().take(32).collect();
        let started = self
            .client
            .run_task()
            .cluster(&self.cluster)
            .task_definition(&self.task_definition)
            .launch_type(LaunchType::Fargate)
            .client_token(walwarden_core::organizations::fingerprint(&token))
            .network_configuration(NetworkConfiguration::builder().awsvpc_configuration(vpc).build())
            .overrides(TaskOverride::builder().container_overrides(container).build())
            .send()
            .await;
        match started {
            Ok(output) if output.failures().is_empty() => Ok(()),
            Ok(output) => {
                let reason = output.failures().first().and_then(|f| f.reason()).unwrap_or("no reason given").to_owned();
                Err(not_started(&launch, &reason))
            }
            Err(error) => Err(not_started(&launch, &error.into_service_error().to_string())),
        }
    }
}

impl ChildLauncher {
    fn start(&self, launch: Launch) -> Result<()> {
        let mut command = Command::new(&self.program);
        command
            .env_clear()
            .envs(PASSED_ON.iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
            .env("WALWARDEN_WORKER_URL", &self.worker_url)
            .env("WALWARDEN_ORG_ID", launch.org.as_str())
            .env("WALWARDEN_JOB_ID", launch.job.as_str())
            .env("WALWARDEN_CLAIM_SECRET", launch.secret.expose())
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .kill_on_drop(true);
        let mut child = command.spawn().map_err(|e| not_started(&launch, &e.to_string()))?;
        tracing::info!(job = %launch.job, pid = child.id(), "runner started");
        let mut stopped = self.stopped.clone();
        tokio::spawn(async move {
            let ended = tokio::select! {
                ended = child.wait() => ended,
                () = async { drop(stopped.wait_for(|stop| *stop).await) } => {
                    // Asked, it reports that it was ended, so that the next attempt need not wait for its silence.
                    if let Some(pid) = child.id().and_then(|id| rustix::process::Pid::from_raw(id as i32)) {
                        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
                    }
                    child.wait().await
                }
            };
            match ended {
                Ok(status) => tracing::info!(job = %launch.job, %status, "runner ended"),
                Err(error) => tracing::error!(job = %launch.job, %error, "runner lost"),
            }
        });
        Ok(())
    }
}

fn not_started(launch: &Launch, reason: &str) -> DomainError {
    tracing::error!(job = %launch.job, reason, "runner did not start");
    DomainError::refused(
        ErrorCode::Unavailable,
        format!("no runner could be started for {}", launch.job),
        "it will be tried again",
    )
}
