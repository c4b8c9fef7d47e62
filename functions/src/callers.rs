//! Calls from one function to another: Lambda Invoke on AWS, a function call in one process. Never a route.

use std::sync::Arc;

use aws_sdk_lambda::{primitives::Blob, types::InvocationType};
use walwarden_contract::{
    errors::{ErrorCode, ErrorDetail},
    ids::{JobId, OrgId},
};
use walwarden_core::{
    Domain,
    calls::{WorkerCall, WorkerReply},
    error::{DomainError, Result},
};

use crate::dispatch::{Dispatch, DispatchCall};

/// The way to `worker`.
#[derive(Clone)]
pub enum WorkerCaller {
    /// In this process.
    Here(Arc<Domain>),
    /// The Lambda function of that name.
    Lambda(aws_sdk_lambda::Client, String),
}

impl WorkerCaller {
    /// Calls and waits for the reply.
    pub async fn call(&self, call: WorkerCall) -> Result<WorkerReply> {
        match self {
            Self::Here(domain) => domain.carry_out(call).await,
            Self::Lambda(client, function) => {
                let payload = invoke(client, function, InvocationType::RequestResponse, &call).await?;
                let reply: std::result::Result<WorkerReply, ErrorDetail> =
                    serde_json::from_slice(&payload).map_err(|e| DomainError::broken("worker's reply", e))?;
                reply.map_err(|detail| DomainError::Refused(Box::new(detail)))
            }
        }
    }

    /// Calls without waiting: what is lost comes again with the sentinel.
    pub async fn send(&self, call: WorkerCall) {
        match self {
            Self::Here(domain) => {
                let domain = Arc::clone(domain);
                tokio::spawn(async move {
                    if let Err(error) = domain.carry_out(call).await {
                        tracing::error!(%error, "worker call failed");
                    }
                });
            }
            Self::Lambda(client, function) => {
                if let Err(error) = invoke(client, function, InvocationType::Event, &call).await {
                    tracing::error!(%error, "worker call was not taken");
                }
            }
        }
    }
}

/// The way to `dispatch`.
#[derive(Clone)]
pub enum DispatchCaller {
    /// In this process.
    Here(Arc<Dispatch>),
    /// The Lambda function of that name.
    Lambda(aws_sdk_lambda::Client, String),
}

impl DispatchCaller {
    /// Asks for a runner. A launch that is lost comes again with the sentinel.
    pub async fn launch(&self, org: OrgId, job: JobId) {
        let call = DispatchCall::Launch { org, job };
        let result = match self {
            Self::Here(dispatch) => dispatch.carry_out(call).await,
            Self::Lambda(client, function) => invoke(client, function, InvocationType::Event, &call).await.map(|_| ()),
        };
        if let Err(error) = result {
            tracing::error!(%error, "runner was not launched");
        }
    }
}

async fn invoke<T: serde::Serialize>(
    client: &aws_sdk_lambda::Client,
    function: &str,
    kind: InvocationType,
    call: &T,
) -> Result<Vec<u8>> {
    let unavailable = |what: String| {
        tracing::error!(function, what, "invoke failed");
        DomainError::refused(ErrorCode::Unavailable, "the service could not do this now", "try again")
    };
    let payload = serde_json::to_vec(call).map_err(|e| DomainError::broken("call", e))?;
    let output = client
        .invoke()
        .function_name(function)
        .invocation_type(kind)
        .payload(Blob::new(payload))
        .send()
        .await
        .map_err(|e| unavailable(e.into_service_error().to_string()))?;
    if let Some(error) = output.function_error {
        return Err(unavailable(error));
    }
    Ok(output.payload.map(Blob::into_inner).unwrap_or_default())
}
