//! Fake successors: each sends some of the messages of an upgrade's protocol, and then fails or hangs.

use std::{
    env, fs,
    os::{
        fd::{FromRawFd as _, OwnedFd},
        unix::{fs::PermissionsExt as _, net::UnixDatagram},
    },
    path::Path,
    process, thread,
    time::Duration,
};

use serde_json::{Value, json};

/// The variable with the steps for [`fake_successor_process`].
const STEPS: &str = "SSECAST_TEST_STEPS";

/// Replaces the program at `path` by a script.
pub(super) fn put_script(path: &Path, script: &str) {
    let beside = path.with_extension("new");
    fs::write(&beside, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&beside, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(&beside, path).unwrap();
}

/// Replaces the program at `path` by a fake successor that does `steps`, separated by spaces, and exits with 9:
/// - `receive` waits for the next message, `take` for all descriptors that were announced.
/// - `Hello`, `Ready`, `Holding` and `Serving` send that message; `older` sends a Hello of an older version, `fail` a Failed with a
///   reason, and `garbage` bytes that are no message.
/// - `close` closes the control channel, `hang` sleeps.
pub(super) fn put(path: &Path, steps: &str) {
    let program = env::current_exe().unwrap();
    let test = "upgrade::fake_successor::fake_successor_process";
    put_script(path, &format!("{STEPS}='{steps}' exec '{}' --exact {test} --nocapture", program.display()));
}

/// Not a test, but the process of a fake successor. Without steps it does nothing.
#[test]
fn fake_successor_process() {
    let Ok(steps) = env::var(STEPS) else { return };
    let number = env::var("SSECAST_HANDOVER_FD").unwrap().parse().unwrap();
    #[expect(unsafe_code, reason = "an inherited descriptor is known by its number alone")]
    // SAFETY: the parent has opened it for this process, and it is taken once.
    let link = unsafe { OwnedFd::from_raw_fd(number) };
    let mut link = Some(UnixDatagram::from(link));
    let mut announced = 0;
    for step in steps.split(' ') {
        let open = link.as_ref();
        let send = |message: Value| assert!(open.unwrap().send(message.to_string().as_bytes()).is_ok());
        match step {
            "receive" => announced = receive(open.unwrap())["State"]["descriptors"].as_u64().unwrap_or(announced),
            "take" => (0..announced.div_ceil(250)).for_each(|_| assert_eq!(receive(open.unwrap()), "Descriptors")),
            "Hello" => send(json!({ "Hello": { "version": 2 } })),
            "older" => send(json!({ "Hello": { "version": 1 } })),
            "fail" => send(json!({ "Failed": { "reason": "this one can't serve" } })),
            "garbage" => assert!(open.unwrap().send(b"\xff garbage").is_ok()),
            "hang" => thread::sleep(Duration::from_secs(600)),
            "close" => drop(link.take()),
            message => send(Value::from(message)),
        }
    }
    process::exit(9)
}

fn receive(link: &UnixDatagram) -> Value {
    let mut message = vec![0; 64 << 10];
    let count = link.recv(&mut message).unwrap();
    assert_ne!(count, 0, "the old process has closed the control channel");
    serde_json::from_slice(&message[..count]).unwrap()
}
