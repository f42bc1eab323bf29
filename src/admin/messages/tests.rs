//! Tests of what holds for several forms of a publish.

use bytes::Bytes;

use super::{BodyError, Limits, Request, Shape};
use crate::name::EventType;

const MAX_MESSAGE: usize = 1 << 20;

fn from_form(body: &[u8]) -> Result<Request, BodyError> {
    super::from_form(body, Limits::new(MAX_MESSAGE))
}

fn from_json(body: &[u8]) -> Result<Request, BodyError> {
    super::from_json(body, Limits::new(MAX_MESSAGE))
}

fn from_lines(body: &[u8]) -> Result<Request, BodyError> {
    super::from_lines(body, Limits::new(MAX_MESSAGE))
}

fn from_raw(name: &[u8], query: &str, body: Bytes) -> Result<Request, BodyError> {
    super::from_raw(name, query, body, Limits::new(MAX_MESSAGE))
}

fn data_of(request: &Request) -> Vec<(&str, &[u8])> {
    request.messages.iter().map(|message| (message.channel.as_str(), &message.data[..])).collect()
}

#[test]
fn a_form_publishes_to_each_channel() {
    let request = from_form(b"channel=a&channel=b+c&message=%00%C3%A4%0D%0A+x&event=price&key=s3").unwrap();
    assert_eq!(data_of(&request), [("a", b"\0\xc3\xa4\r\n x" as &[u8]), ("b c", b"\0\xc3\xa4\r\n x")]);
    assert_eq!(request.messages[0].event, Some(EventType::new("price").unwrap()));
    assert_eq!((request.key, request.shape), (Some(b"s3".to_vec()), Shape::One));
}

#[test]
fn json_values_are_published_as_they_are_written() {
    let request = from_json(br#"{"channel":"a","message":"x\ny"}"#).unwrap();
    assert_eq!(data_of(&request), [("a", b"x\ny" as &[u8])]);
    let request = from_json(br#" [{"channel":"a","message":[1, 2.0]},{"channel":"b","message":null}]"#);
    assert_eq!(data_of(&request.unwrap()), [("a", b"[1, 2.0]" as &[u8]), ("b", b"null")]);
    let request = from_lines(b"{\"channel\":\"a\",\"message\":1}\n\n{\"channel\":\"b\",\"message\":2}\r\n").unwrap();
    assert_eq!((data_of(&request), request.shape), (vec![("a", b"1" as &[u8]), ("b", b"2")], Shape::Lines));
}

#[test]
fn errors_say_what_is_wrong_and_in_which_message() {
    let error = |result: Result<Request, BodyError>| result.unwrap_err().to_string();
    assert!(error(from_form(b"message=x")).starts_with("channel is missing"));
    assert!(error(from_form(b"channel=x")).starts_with("message is missing"));
    assert!(error(from_json(b"{")).contains("can't be read"));
    assert!(error(from_lines(b"{\"channel\":\"a\",\"message\":1}\n{}")).starts_with("message 1 of the request"));
    assert!(error(from_form(b"channel=x&message=y&event=a%0Ab")).contains("line break"));
    assert!(error(from_raw(b"a*", "", Bytes::new())).contains("not allowed"));
    let channel = error(from_json(br#"{"channel":5,"message":"x"}"#));
    assert!(channel.contains("expected a channel's name as a string, or a list of such strings"), "{channel}");
    assert!(error(from_json(b"7")).contains("expected an object with channel and message"));
}

#[test]
fn an_unknown_field_is_named_with_the_most_similar_one() {
    let error = |result: Result<Request, BodyError>| {
        let error = result.unwrap_err();
        (error.code(), error.to_string())
    };
    let (code, form) = error(from_form(b"chanel=a&message=x"));
    assert_eq!(
        (code, form.contains("\"chanel\"") && form.contains("did you mean \"channel\"?")),
        ("unknown_field", true)
    );
    assert!(
        error(from_form(b"channel=a&message=x&foo=1")).1.contains("there are channel, message, event, key, durable")
    );
    let json = error(from_json(br#"{"channel":"a","mesage":"x"}"#)).1;
    assert!(json.contains("did you mean \"message\"?"), "{json}");
    assert!(error(from_lines(br#"{"channel":"a","message":"x","foo":2}"#)).1.starts_with("message 0 of the request"));
    assert!(error(from_raw(b"a", "evnt=x", Bytes::new())).1.contains("did you mean \"event\"?"));
}

#[test]
fn an_empty_event_type_is_none_in_every_form() {
    let event = |result: Result<Request, BodyError>| result.unwrap().messages.remove(0).event;
    assert_eq!(event(from_form(b"channel=a&message=x&event=&key=")), None);
    assert_eq!(event(from_form(b"channel=a&message=x&event")), None);
    assert_eq!(event(from_raw(b"a", "event=&key=", Bytes::new())), None);
    assert_eq!(event(from_json(br#"{"channel":"a","message":"x","event":""}"#)), None);
    assert_eq!(event(from_json(br#"{"channel":"a","message":"x","event":null}"#)), None);
    assert_eq!(event(from_lines(br#"{"channel":"a","message":"x"}"#)), None);
}

/// A publish to such a name was answered with ok, and nobody could subscribe to it.
#[test]
fn a_name_that_nobody_can_subscribe_to_is_refused_in_every_form() {
    let refused = |result: Result<Request, BodyError>| {
        let error = result.unwrap_err();
        assert!(error.to_string().contains("names that begin with __ or ssecast: are reserved"), "{error}");
        assert_eq!(error.code(), "reserved_channel");
    };
    for name in ["__x", "ssecast:x"] {
        refused(from_form(format!("channel=a&channel={name}&message=x").as_bytes()));
        refused(from_raw(name.as_bytes(), "", Bytes::new()));
        refused(from_json(format!(r#"{{"channel":"{name}","message":"x"}}"#).as_bytes()));
        refused(from_json(format!(r#"[{{"channel":"{name}","message":"x"}}]"#).as_bytes()));
        refused(from_lines(format!(r#"{{"channel":"{name}","message":"x"}}"#).as_bytes()));
    }
    for name in ["_x", "ssecast", "ssecast.x", "x__"] {
        assert!(from_raw(name.as_bytes(), "", Bytes::new()).is_ok(), "{name}");
    }
}

#[test]
fn a_message_that_is_not_utf_8_is_refused() {
    let code = |result: Result<Request, BodyError>| result.unwrap_err().code();
    assert_eq!(code(from_form(b"channel=a&message=%FF")), "not_utf8");
    assert_eq!(code(from_raw(b"a", "", Bytes::from_static(b"a\xff"))), "not_utf8");
    assert_eq!(code(from_json(b"{\"channel\":\"a\",\"message\":\"\xff\"}")), "bad_json");
}

/// The whole body was parsed before its events were counted, and took up to 20 times its size in memory.
#[test]
fn parsing_stops_at_the_limit() {
    // 16 times 64 bytes are 16 events without a text. What is wrong at the end of each body is never reached.
    let limits = Limits::new(64);
    let stopped = |result: Result<Request, BodyError>| {
        let error = result.unwrap_err();
        assert!(matches!(error, BodyError::TooMuch(1024)), "{error}");
    };
    let item = r#"{"channel":"a","message":""}"#;
    stopped(super::from_form(format!("message=&{}wrong", "channel=a&".repeat(17)).as_bytes(), limits));
    stopped(super::from_json(format!("[{}wrong", format!("{item},").repeat(17)).as_bytes(), limits));
    stopped(super::from_lines(format!("{}wrong", format!("{item}\n").repeat(17)).as_bytes(), limits));
    let names = format!(r#"{{"message":"","channel":[{}wrong"#, r#""a","#.repeat(17));
    stopped(super::from_json(names.as_bytes(), limits));
    stopped(super::from_json(format!("[{names}").as_bytes(), limits));
    stopped(super::from_lines(names.as_bytes(), limits));
    let sixteen = super::from_lines(format!("{item}\n").repeat(16).as_bytes(), limits).unwrap();
    assert_eq!(sixteen.messages.len(), 16);
}

#[test]
fn a_message_that_is_too_long_is_named_by_its_place() {
    let long = format!("{{\"channel\":\"a\",\"message\":\"{}\"}}", "x".repeat(65));
    let error = super::from_lines(format!("{{\"channel\":\"a\",\"message\":1}}\n{long}").as_bytes(), Limits::new(64));
    let error = error.unwrap_err();
    assert!(error.to_string().starts_with("message 1 of the request: a message has 65 bytes"), "{error}");
    assert!(error.is_too_large() && error.code() == "too_long");
}

#[test]
fn a_publish_may_ask_not_to_be_kept_by_a_journal() {
    let durable = |result: Result<Request, BodyError>| result.unwrap().messages.remove(0).durable;
    assert!(durable(from_form(b"channel=a&message=x")) && durable(from_form(b"channel=a&message=x&durable=true")));
    assert!(!durable(from_form(b"channel=a&message=x&durable=false")));
    assert!(durable(from_raw(b"a", "", Bytes::new())) && !durable(from_raw(b"a", "durable=false", Bytes::new())));
    assert!(durable(from_json(br#"{"channel":"a","message":"x"}"#)));
    assert!(!durable(from_lines(br#"{"channel":"a","message":"x","durable":false}"#)));
    let error = from_form(b"channel=a&message=x&durable=0").unwrap_err();
    assert_eq!((error.code(), error.to_string().contains("must be true or false")), ("bad_durable", true));
    assert_eq!(from_json(br#"{"channel":"a","message":"x","durable":"no"}"#).unwrap_err().code(), "bad_json");
}
