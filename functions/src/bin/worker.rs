//! The `worker` function on AWS Lambda. Its events are HTTP requests of the worker protocol, or calls of
//! other functions.

use std::sync::Arc;

use lambda_http::{
    Adapter, LambdaEvent,
    lambda_runtime::{self, Error, service_fn},
    request::LambdaRequest,
    tower::{Service, ServiceExt},
};
use serde_json::{Value, json};
use walwarden_core::calls::WorkerCall;
use walwarden_functions::{answer, config, worker};

#[tokio::main]
async fn main() -> Result<(), Error> {
    config::log_to_stdout();
    let config = config::Config::from_env().await?;
    let domain = config.domain().await?;
    let router = worker::router(worker::Worker { domain: Arc::clone(&domain), caller: config.worker_caller()? })
        .fallback(answer::no_route);
    lambda_runtime::run(service_fn(move |event: LambdaEvent<Value>| {
        let (domain, router) = (Arc::clone(&domain), router.clone());
        async move {
            if event.payload.get("call").is_some() {
                let call: WorkerCall = serde_json::from_value(event.payload)?;
                let reply = domain.carry_out(call).await.map_err(|e| {
                    tracing::error!(error = %e, "call failed");
                    e.detail()
                });
                return Ok::<Value, Error>(json!(reply));
            }
            let request: LambdaRequest = serde_json::from_value(event.payload)?;
            let mut adapter = Adapter::from(router);
            let response = adapter.ready().await?.call(LambdaEvent::new(request, event.context)).await?;
            Ok(serde_json::to_value(response)?)
        }
    }))
    .await
}
