//! Shows the daemon's state: `/stats`, `/healthz`, `/readyz`. It changes nothing.

use std::convert::Infallible;

use hyper::StatusCode;
use serde_json::{Value, json};

use super::{Admin, Asked, done, guard::forbidden};
use crate::http::{Answer, reply};

impl Admin {
    /// Every channel that has clients, with their number, as cyclone-sse does: `[["cats",946],…]`.
    pub(super) async fn stats(&self, asked: Asked) -> Answer<Infallible> {
        if let Err(refused) = self.may_look(&asked.caller, &asked.request) {
            return done(forbidden(refused));
        }
        let all = self.dispatcher.all_subscribers().await;
        let all: Vec<Value> = all.into_iter().map(|(name, count)| json!([name.as_str(), count])).collect();
        done(reply::json(StatusCode::OK, &Value::Array(all)))
    }

    /// 200 while the process answers.
    pub(super) async fn health(&self, _: Asked) -> Answer<Infallible> {
        done(reply::json(StatusCode::OK, &json!({ "status": "ok" })))
    }

    /// 200 while every source is connected.
    pub(super) async fn ready(&self, asked: Asked) -> Answer<Infallible> {
        if let Err(refused) = self.may_look(&asked.caller, &asked.request) {
            return done(forbidden(refused));
        }
        let disconnected = self.dispatcher.disconnected_sources();
        let mut body = json!({ "status": "ready" });
        let mut status = StatusCode::OK;
        if !disconnected.is_empty() {
            status = StatusCode::SERVICE_UNAVAILABLE;
            let each: Vec<String> = disconnected.iter().map(|(source, why)| format!("{source} ({why})")).collect();
            let what =
                format!("disconnected: {}; clients stay connected and get a gap event on reconnect", each.join(", "));
            let names: Vec<&str> = disconnected.iter().map(|(source, _)| *source).collect();
            body =
                json!({ "status": "not ready", "code": "source_disconnected", "error": what, "disconnected": names });
        }
        if let Some(phase) = self.reloads.phase() {
            body["upgrade"] = phase.into();
        }
        let counters = self.metrics.all().map(|(name, count)| (name.to_owned(), Value::from(count)));
        body["counters"] = Value::Object(counters.into_iter().collect());
        if let Some(why) = self.reloads.last_failure() {
            body["last_reload"] = format!("failed: {why}").into();
        }
        done(reply::json(status, &body))
    }
}
