//! `ssecast reload`: asks the daemon for a new process, and waits for the outcome.

use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::{
    Method, StatusCode,
    header::{HeaderName, HeaderValue},
    http::uri::PathAndQuery,
};

use tokio::time::sleep;

use super::{Failure, client::Client, exit, print, runtime, socket::AdminSocketArgs};

/// Longest wait for other reloads to end.
const LONGEST_WAIT: Duration = Duration::from_secs(120);
/// Time between two attempts while it waits for other reloads.
const BETWEEN_TRIES: Duration = Duration::from_millis(200);

/// Have a new process take over: new configuration, new program, and no client is cut
///
/// Waits for the outcome. Ends with 1 if the new process can't take over: then the old one serves on as if nothing had been
/// asked, and the reason is printed here and in the daemon's log.
#[derive(Debug, clap::Args)]
pub struct ReloadArgs {
    #[command(flatten)]
    socket: AdminSocketArgs,
}

/// Reloads, and prints the answer.
///
/// # Errors
/// No daemon (69), not allowed to connect or to reload (77), the new process can't take over (1), broken off (74), wrong configuration (64).
pub fn run(args: &ReloadArgs) -> Result<(), Failure> {
    // The daemon reads its configuration file itself, and reports and logs what is wrong with it.
    let socket = args.socket.socket_or_default().map_err(|errors| {
        let what = format_args!(
            "{errors}\nnothing has changed: the daemon was not asked; --admin-socket asks it all the same"
        );
        Failure::new(exit::USAGE, what)
    })?;
    let answer = runtime()?.block_on(async {
        let client = Client::new(socket);
        let no_headers: [(HeaderName, HeaderValue); 0] = [];
        let target = PathAndQuery::from_static("/reload");
        let began = Instant::now();
        let answer = loop {
            let answer = client.send(Method::POST, &target, no_headers.clone(), Bytes::new()).await?;
            // Another reload is under way. Its process may have read the configuration before the last change, so ask again.
            if answer.status() != StatusCode::CONFLICT || began.elapsed() > LONGEST_WAIT {
                break answer;
            }
            sleep(BETWEEN_TRIES).await;
        };
        if answer.status() != StatusCode::OK {
            return Err(client.refusal(answer).await);
        }
        Ok(client.read_body(answer).await?)
    })?;
    Ok(print(&answer)?)
}
