//! What the demo prints: where the page is, and commands that can be pasted into a terminal.

use std::io::{self, Write};

use super::{commands::Places, redis::Redis};

/// Everything that the output depends on.
pub(super) struct Output<'a> {
    pub(super) places: &'a Places,
    pub(super) redis: &'a Redis,
    /// `--no-redis` was given.
    pub(super) no_redis: bool,
}

impl Output<'_> {
    /// Prints it.
    ///
    /// # Errors
    /// What the operating system reports about `out`.
    pub(super) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let (page, port) = (self.places.page(), self.places.port);
        writeln!(out, "\nOpen this page:\n\n    {page}\n")?;
        writeln!(out, "and publish there, or paste into another terminal:\n")?;
        for command in self.places.commands() {
            writeln!(out, "  {}\n    {}\n", command.what, command.text)?;
        }
        writeln!(out, "If your browser is on another machine, run this there first, then open the same page:\n")?;
        writeln!(out, "    ssh -L {port}:127.0.0.1:{port} {}\n", ssh_host())?;
        match (&self.redis.url, &self.redis.remark) {
            (Some(_), _) => writeln!(out, "Publishes go through Redis, those of the page and of curl as well.")?,
            (None, Some(remark)) => writeln!(out, "Note: {remark}.")?,
            (None, None) if self.no_redis => {}
            (None, None) => {
                writeln!(out, "No Redis answers on 127.0.0.1:6379: events come from the admin socket alone.")?
            }
        }
        writeln!(out, "Ctrl-C ends the demo and leaves nothing behind.")?;
        out.flush()
    }
}

/// The address of this machine that the ssh client used, if this is an ssh session; else a placeholder.
fn ssh_host() -> String {
    let connection = std::env::var("SSH_CONNECTION").unwrap_or_default();
    // Client address, client port, server address, server port: ssh(1).
    connection.split(' ').nth(2).filter(|host| !host.is_empty()).unwrap_or("HOST").to_owned()
}
