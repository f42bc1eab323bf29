//! `ssecast reload`: asks the daemon for a new process, and waits for the outcome.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use bytes::Bytes;
use hyper::{
    Method, StatusCode,
    header::{HeaderName, HeaderValue},
    http::uri::PathAndQuery,
};

use tokio::time::sleep;

use super::{Failure, client::Client, exit, print, runtime};
use crate::config::{Address, Listen};

/// Longest wait for other reloads to end.
const LONGEST_WAIT: Duration = Duration::from_secs(120);
/// Time between two attempts meanwhile.
const BETWEEN_TRIES: Duration = Duration::from_millis(200);

/// Have a new process take over: new configuration, new program, and no client is cut
///
/// Waits for the outcome. Ends with 1 if the new process can't take over: then the old one serves on as if nothing had been
/// asked, and the reason is printed here and in the daemon's log.
#[derive(Debug, clap::Args)]
pub struct ReloadArgs {
    /// The daemon's admin socket [default: the configuration's]
    #[arg(long, value_name = "ADDRESS")]
    admin_socket: Option<Address>,

    /// The daemon's configuration file [default: /etc/ssecast/ssecast.toml, if it is there]
    #[arg(long, value_name = "FILE", conflicts_with = "admin_socket")]
    config: Option<PathBuf>,
}

/// Reloads, and prints the answer.
///
/// # Errors
/// No daemon (69), not allowed to connect or to reload (77), the new process can't take over (1), broken off (74), wrong configuration (64).
pub fn run(args: &ReloadArgs) -> Result<(), Failure> {
    let address = match &args.admin_socket {
        Some(address) => address.clone(),
        None => match Listen::load(args.config.as_deref()) {
            Ok(listen) => listen.admin.first,
            // The daemon reads the file itself, and reports and logs what is wrong with it.
            Err(_) if args.config.is_none() => Listen::default().admin.first,
            Err(errors) => {
                let what = format_args!(
                    "{errors}\nnothing has changed: the daemon was not asked; --admin-socket asks it all the same"
                );
                return Err(Failure::new(exit::USAGE, what));
            }
        },
    };
    let client = Client::new(address, "--admin-socket");
    let answer = runtime()?.block_on(async {
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
