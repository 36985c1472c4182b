//! `sandbox`: the stand-in for the provider, one line on stdout for each request.

use super::{Exit, page};
use crate::sandbox::{Sandbox, words};
use crate::secret::Secret;
use std::net::SocketAddr;
use std::sync::Arc;

#[derive(clap::Args)]
pub(super) struct Options {
    /// Where to listen: a loopback address
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8090", value_parser = loopback)]
    listen: SocketAddr,
    /// The key that it accepts: a made-up one, since nothing here is real
    #[arg(long, value_name = "KEY", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    api_key: String,
}

/// Whoever reaches it can tell it how to behave: nobody from elsewhere does.
fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr =
        text.parse().map_err(|_| "is not an address with a port, such as 127.0.0.1:8090".to_owned())?;
    if address.ip().to_canonical().is_loopback() { Ok(address) } else { Err("is not a loopback address".to_owned()) }
}

pub(super) fn run(options: Options) -> Exit {
    let Ok(runtime) = tokio::runtime::Runtime::new() else { return Exit::Unavailable };
    runtime.block_on(async {
        let bound = async {
            let listener = tokio::net::TcpListener::bind(options.listen).await?;
            let address = listener.local_addr()?;
            Ok::<_, std::io::Error>((listener, address))
        };
        match bound.await {
            Err(error) => {
                page::complain(format_args!("{} cannot be listened on: {error}", options.listen));
                Exit::Unavailable
            }
            Ok((listener, address)) => {
                page::line(serde_json::json!({"ready": true, "listen": address.to_string(), "sandbox": true, "note": "nothing real happens here"}));
                page::complain(format_args!("A group id that begins with one of these is answered so: {}", words()));
                page::complain("POST /_sandbox/next with {\"behave\": \"hang-up-lost\", \"times\": 2} says it of the next requests.");
                let sandbox = Sandbox::new(Secret::new(options.api_key), |seen| {
                    page::line(serde_json::to_string(seen).unwrap_or_default());
                });
                let stop = async {
                    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).ok();
                    match &mut terminate {
                        Some(terminate) => drop(tokio::select! { _ = terminate.recv() => Ok(()), ended = tokio::signal::ctrl_c() => ended }),
                        None => drop(tokio::signal::ctrl_c().await),
                    }
                };
                Arc::new(sandbox).serve(listener, stop).await;
                Exit::Done
            }
        }
    })
}
