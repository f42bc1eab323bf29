//! Log lines as the journal of systemd reads them: each begins with its priority, as `<4>` (`sd-daemon(3)`).

use std::{env, fmt, os::fd::AsFd};

use nix::sys::stat::fstat;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::{
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    registry::LookupSpan,
};

/// Puts the priority before what the format inside writes.
pub(super) struct WithPriority<F>(pub(super) F);

impl<S, N, F> FormatEvent<S, N> for WithPriority<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut line: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        write!(line, "<{}>", priority(*event.metadata().level()))?;
        self.0.format_event(context, line, event)
    }
}

/// The priority of `syslog(3)`.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

/// Whether `output` goes to the journal: `JOURNAL_STREAM` has its device and inode (`systemd.exec(5)`).
pub(super) fn is_journal(output: impl AsFd) -> bool {
    let Ok(stream) = env::var("JOURNAL_STREAM") else { return false };
    fstat(output).is_ok_and(|status| stream == format!("{}:{}", status.st_dev, status.st_ino))
}
