//! The `api` function on AWS Lambda.

use walwarden_functions::{api, config};

#[tokio::main]
async fn main() -> Result<(), lambda_http::Error> {
    config::log_to_stdout();
    let config = config::Config::from_env().await?;
    let state = api::Api {
        domain: config.domain().await?,
        worker: config.worker_caller()?,
        dispatch: config.dispatch_caller()?,
    };
    lambda_http::run(api::router(state)).await
}
