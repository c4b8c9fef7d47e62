//! The `dispatch` function on AWS Lambda: schedules, `api` and `sentinel` call it.

use lambda_runtime::{Error, LambdaEvent, service_fn};
use walwarden_functions::{
    config,
    dispatch::{Dispatch, DispatchCall, Launcher},
};

#[tokio::main]
async fn main() -> Result<(), Error> {
    config::log_to_stdout();
    let config = config::Config::from_env().await?;
    let dispatch = Dispatch::new(config.domain().await?, Launcher::Ecs(Box::new(config.ecs_launcher()?)));
    lambda_runtime::run(service_fn(|event: LambdaEvent<DispatchCall>| async {
        dispatch.carry_out(event.payload).await.map_err(|e| Error::from(e.to_string()))
    }))
    .await
}
