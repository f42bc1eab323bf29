//! Messages to the service manager (`sd_notify(3)`): readiness, the line in `systemctl status`, the watchdog's beat. Without a
//! service manager nothing is sent. The environment is left as it is, for a successor reads it too.

use std::{
    env,
    time::{Duration, Instant},
};

use sd_notify::NotifyState;
use tokio::time::{MissedTickBehavior, interval, timeout};

/// How often the status line is renewed.
const STATUS_INTERVAL: Duration = Duration::from_secs(5);

/// How the daemon does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StatusReport {
    /// Clients now.
    pub clients: u64,
    /// Channels that have clients.
    pub channels: usize,
    /// Events since the start.
    pub events: u64,
    /// What else an administrator should know at a glance; put behind the counts.
    pub note: Option<String>,
}

/// Tells that the daemon serves.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// Tells that the daemon is about to end.
pub fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("stopping: clients are told when to come back")]);
}

/// Shows at once why a reload failed; the status line repeats it.
pub fn show_failed_reload(why: &str) {
    let status = format!("the reload failed, and nothing has changed: {}", one_line(why));
    tell(&[NotifyState::Status(&status)]);
}

/// Sends anything else that `sd_notify(3)` knows. A service manager that can't be reached is logged, and otherwise no concern.
pub fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager can't be reached: {states:?} is lost");
    }
}

/// Tells how the daemon does, for as long as it is polled: the status line every few seconds and, where the service manager
/// watches, the beat at half of its time at the latest. `ask` must be answered by every part that could hang: without an answer
/// there is no beat, and the service manager puts an end to it.
pub async fn report<A: Future<Output = StatusReport>>(ask: impl FnMut() -> A) {
    if env::var_os("NOTIFY_SOCKET").is_some() {
        report_to(sd_notify::watchdog_enabled(), ask, tell).await;
    }
}

/// [`report`], to `tell`; `watchdog` is the service manager's patience.
async fn report_to<A: Future<Output = StatusReport>>(
    watchdog: Option<Duration>,
    mut ask: impl FnMut() -> A,
    mut tell: impl FnMut(&[NotifyState<'_>]),
) {
    let every = watchdog.map_or(STATUS_INTERVAL, |limit| STATUS_INTERVAL.min(limit / 2)).max(Duration::from_millis(1));
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut before: Option<(Instant, u64)> = None;
    loop {
        ticks.tick().await;
        let Ok(report) = timeout(every, ask()).await else {
            tracing::error!(waited = ?every, "a shard doesn't answer");
            tell(&[NotifyState::Status("a shard doesn't answer")]);
            continue;
        };
        let now = Instant::now();
        let rate = before.map_or(0.0, |(then, events)| {
            report.events.saturating_sub(events) as f64 / now.duration_since(then).as_secs_f64().max(1e-3)
        });
        before = Some((now, report.events));
        let status = status(&report, rate.round() as u64);
        let said = [NotifyState::Status(&status), NotifyState::Watchdog];
        tell(&said[..if watchdog.is_some() { 2 } else { 1 }]);
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

/// The text on one line; a second line would be taken for an assignment.
fn one_line(text: &str) -> String {
    text.replace(char::is_control, " ")
}

/// The number with its thousands apart.
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
    async fn there_is_no_beat_without_an_answer() {
        let mut asked = 0;
        let ask = || {
            asked += 1;
            let hangs = asked == 2;
            async move {
                if hangs {
                    std::future::pending::<()>().await;
                }
                StatusReport::default()
            }
        };
        let (said, mut heard) = tokio::sync::mpsc::unbounded_channel();
        let tell = |states: &[NotifyState<'_>]| said.send(states.iter().map(ToString::to_string).collect()).unwrap();
        let first_three = async {
            let mut all: Vec<Vec<String>> = Vec::new();
            while all.len() < 3 {
                all.push(heard.recv().await.unwrap());
            }
            all
        };
        let all = tokio::select! {
            all = first_three => all,
            () = report_to(Some(Duration::from_millis(10)), ask, tell) => unreachable!(),
        };
        let well = ["STATUS=0 clients, 0 channels, 0 events/s", "WATCHDOG=1"];
        assert_eq!(all[0], well);
        assert_eq!(all[1], ["STATUS=a shard doesn't answer"]);
        assert_eq!(all[2], well);
    }

    #[test]
    fn the_status_is_a_line_that_people_read() {
        let report = StatusReport { clients: 1234, channels: 56, events: 0, note: None };
        assert_eq!(status(&report, 789), "1,234 clients, 56 channels, 789 events/s");
        let report =
            StatusReport { clients: 1, channels: 0, events: 0, note: Some("reload failed:\nno such file".into()) };
        assert_eq!(status(&report, 1_000_000), "1 client, 0 channels, 1,000,000 events/s; reload failed: no such file");
        assert_eq!(grouped(100), "100");
    }
}
