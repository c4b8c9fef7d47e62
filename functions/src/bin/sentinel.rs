//! The `sentinel` function on AWS Lambda: one sweep per event.

use lambda_runtime::{Error, LambdaEvent, service_fn};
use walwarden_functions::{config, sentinel::Sentinel};

#[tokio::main]
async fn main() -> Result<(), Error> {
    config::log_to_stdout();
    let config = config::Config::from_env().await?;
    let sentinel = Sentinel {
        domain: config.domain().await?,
        worker: config.worker_caller()?,
        dispatch: config.dispatch_caller()?,
    };
    lambda_runtime::run(service_fn(|_: LambdaEvent<serde_json::Value>| async {
        sentinel.sweep().await.map_err(|e| Error::from(e.to_string()))
    }))
    .await
}
