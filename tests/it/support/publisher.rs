//! Publishing on the admin socket, in each of its forms.

use serde_json::Value;

use super::{daemon::Daemon, http::Request, response::Response};

/// The answer to a publish.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
pub(crate) struct Published {
    pub(crate) status: String,
    /// The event's id; `None` if it went through Redis.
    pub(crate) id: Option<String>,
    pub(crate) subscribers: usize,
}

impl Daemon {
    /// Publishes `message` on `channel`, and asserts that it was accepted.
    pub(crate) fn publish(&self, channel: &str, message: &str) -> Published {
        self.publish_form(&[("channel", channel), ("message", message)])
    }

    /// Publishes the form `fields`, and asserts that it was accepted.
    pub(crate) fn publish_form(&self, fields: &[(&str, &str)]) -> Published {
        accepted(self.post_form(fields))
    }

    /// Publishes the bytes `message`, and asserts that it was accepted.
    pub(crate) fn publish_raw(&self, channel: &str, message: &[u8]) -> Published {
        let path: String = form_urlencoded::byte_serialize(channel.as_bytes()).collect();
        accepted(self.post(&format!("/publish/{}", path.replace('+', "%20")), "application/octet-stream", message))
    }

    /// Publishes `messages` on `channel` with one request, in order.
    pub(crate) fn publish_many<'a>(
        &self,
        channel: &str,
        messages: impl IntoIterator<Item = &'a str>,
    ) -> Vec<Published> {
        let lines: String = messages
            .into_iter()
            .map(|message| serde_json::json!({ "channel": channel, "message": message }).to_string() + "\n")
            .collect();
        accepted_lines(self.post("/publish", "application/x-ndjson", lines))
    }

    pub(crate) fn post_form(&self, fields: &[(&str, &str)]) -> Response {
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        self.post("/publish", "application/x-www-form-urlencoded", body)
    }

    pub(crate) fn post_json(&self, body: &Value) -> Response {
        self.post("/publish", "application/json", body.to_string())
    }

    pub(crate) fn post(&self, path: &str, content_type: &str, body: impl Into<Vec<u8>>) -> Response {
        Request::post(path, content_type, body).send(self.admin())
    }
}

/// Asserts that a publish was accepted, and returns its answer.
pub(crate) fn accepted(response: Response) -> Published {
    assert_eq!(response.status(), 200, "{:?}: {}", response.head().clone(), response.text());
    let published: Published = serde_json::from_value(response.json()).unwrap();
    assert_eq!(published.status, "ok");
    published
}

/// Asserts that all publishes of a request were accepted, and returns their answers, one a line.
pub(crate) fn accepted_lines(response: Response) -> Vec<Published> {
    assert_eq!(response.status(), 200, "{:?}: {}", response.head().clone(), response.text());
    let answers: Vec<Published> = response.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(answers.iter().all(|answer| answer.status == "ok"), "{answers:?}");
    answers
}

/// Asserts that `response` is a refusal with `status`: one line of JSON with the reason. Returns the reason.
pub(crate) fn refused(response: Response, status: u16) -> String {
    let head = response.head().clone();
    let text = response.text();
    assert_eq!(head.status, status, "{head:?} {text:?}");
    let line = text.strip_suffix('\n').unwrap_or(&text);
    assert!(!line.contains('\n'), "more than one line: {text:?}");
    let json: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("not JSON ({error}): {text:?}"));
    let error = json["error"].as_str().unwrap_or_else(|| panic!("no error in {text:?}"));
    assert!(!error.is_empty());
    error.to_owned()
}
