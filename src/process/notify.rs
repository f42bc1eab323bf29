//! Notifications to the service manager (`sd_notify(3)`): readiness, the line in `systemctl status`, the watchdog's keep-alive.
//! Sends nothing if there is no service manager. Never changes the environment, because a successor reads it too.

use std::{
    env,
    time::{Duration, Instant},
};

use sd_notify::NotifyState;
use tokio::time::{MissedTickBehavior, interval, timeout};

/// Time between two status lines.
const STATUS_INTERVAL: Duration = Duration::from_secs(5);

/// The data of a status line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StatusReport {
    /// Number of clients.
    pub clients: u64,
    /// Number of channels that have clients.
    pub channels: usize,
    /// Number of events since the start.
    pub events: u64,
    /// A problem that an administrator should see, such as a disconnected source. It follows the counts.
    pub note: Option<String>,
}

/// Reports that the daemon serves.
pub fn ready() {
    send(&[NotifyState::Ready]);
}

/// Reports that the daemon is about to end.
pub fn stopping() {
    send(&[NotifyState::Stopping, NotifyState::Status("stopping: clients are asked to reconnect")]);
}

/// Shows why a reload failed, at once. Later status lines repeat it as their note.
pub fn report_failed_reload(why: &str) {
    let status = format!("the reload failed, and nothing has changed: {}", one_line(why));
    send(&[NotifyState::Status(&status)]);
}

/// Sends notifications, whatever `sd_notify(3)` defines. A failure is logged; the daemon goes on.
pub fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager did not get {states:?}: its socket, NOTIFY_SOCKET, can't be reached");
    }
}

/// Sends the status line every few seconds, for as long as this future is polled. If the service manager has a watchdog, each
/// line comes with a keep-alive, at intervals of half the watchdog's time at most. `collect` must ask every part that could hang:
/// as long as its future isn't ready, no keep-alive is sent, and in the end the service manager kills the daemon.
pub async fn report<A: Future<Output = StatusReport>>(collect: impl FnMut() -> A) {
    if env::var_os("NOTIFY_SOCKET").is_some() {
        report_to(sd_notify::watchdog_enabled(), collect, send).await;
    }
}

/// [`report`] with `send`. `watchdog` is the time after which the service manager kills a daemon without a keep-alive.
async fn report_to<A: Future<Output = StatusReport>>(
    watchdog: Option<Duration>,
    mut collect: impl FnMut() -> A,
    mut send: impl FnMut(&[NotifyState<'_>]),
) {
    let every = watchdog.map_or(STATUS_INTERVAL, |limit| STATUS_INTERVAL.min(limit / 2)).max(Duration::from_millis(1));
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut before: Option<(Instant, u64)> = None;
    loop {
        ticks.tick().await;
        let Ok(report) = timeout(every, collect()).await else {
            tracing::error!(waited = ?every, "a shard doesn't answer");
            send(&[NotifyState::Status("a shard doesn't answer")]);
            continue;
        };
        let now = Instant::now();
        let rate = before.map_or(0.0, |(then, events)| {
            report.events.saturating_sub(events) as f64 / now.duration_since(then).as_secs_f64().max(1e-3)
        });
        before = Some((now, report.events));
        let status = status(&report, rate.round() as u64);
        let states = [NotifyState::Status(&status), NotifyState::Watchdog];
        send(&states[..if watchdog.is_some() { 2 } else { 1 }]);
    }
}

fn status(report: &StatusReport, rate: u64) -> String {
    let plural = |count: u64, what: &str| format!("{} {what}{}", grouped(count), if count == 1 { "" } else { "s" });
    let mut line = format!(
        "{}, {}, {}/s",
        plural(report.clients, "client"),
        plural(report.channels as u64, "channel"),
        plural(rate, "event")
    );
    if let Some(note) = &report.note {
        line.extend(["; ", &one_line(note)]);
    }
    line
}

/// The text on one line. In a notification, a second line would be another variable.
fn one_line(text: &str) -> String {
    text.replace(char::is_control, " ")
}

/// The number with a comma after each group of thousands.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn no_keep_alive_is_sent_while_a_shard_hangs() {
        let mut calls = 0;
        let collect = || {
            calls += 1;
            let hangs = calls == 2;
            async move {
                if hangs {
                    std::future::pending::<()>().await;
                }
                StatusReport::default()
            }
        };
        let (sent, mut received) = tokio::sync::mpsc::unbounded_channel();
        let send = |states: &[NotifyState<'_>]| sent.send(states.iter().map(ToString::to_string).collect()).unwrap();
        let first_three = async {
            let mut all: Vec<Vec<String>> = Vec::new();
            while all.len() < 3 {
                all.push(received.recv().await.unwrap());
            }
            all
        };
        let all = tokio::select! {
            all = first_three => all,
            () = report_to(Some(Duration::from_millis(10)), collect, send) => unreachable!(),
        };
        let healthy = ["STATUS=0 clients, 0 channels, 0 events/s", "WATCHDOG=1"];
        assert_eq!(all[0], healthy);
        assert_eq!(all[1], ["STATUS=a shard doesn't answer"]);
        assert_eq!(all[2], healthy);
    }

    #[test]
    fn the_status_line_has_the_counts_and_the_note() {
        let report = StatusReport { clients: 1234, channels: 56, events: 0, note: None };
        assert_eq!(status(&report, 789), "1,234 clients, 56 channels, 789 events/s");
        let report =
            StatusReport { clients: 1, channels: 0, events: 0, note: Some("reload failed:\nno such file".into()) };
        assert_eq!(status(&report, 1_000_000), "1 client, 0 channels, 1,000,000 events/s; reload failed: no such file");
        assert_eq!(grouped(100), "100");
    }
}
