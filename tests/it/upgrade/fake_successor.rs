//! New processes that play false: each says some of the words of the handover, and then something goes wrong.

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

/// The part that the process in [`plays_its_part`] plays.
const PART: &str = "SSECAST_TEST_PART";

/// Puts a script at `path`, where the program was.
pub(super) fn put_script(path: &Path, script: &str) {
    let beside = path.with_extension("new");
    fs::write(&beside, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&beside, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(&beside, path).unwrap();
}

/// Puts an imposter at `path` who plays `part`: what he does, in order, separated by spaces. `hear` waits for the next word,
/// `take` for all the descriptors that were announced, `Hello`, `Ready`, `Holding`, `Serving` are said, `older` is a Hello of an older
/// version, `fail` and `babble` are said as well, `hang` and `close` are done for ever; at the end he exits.
pub(super) fn put(path: &Path, part: &str) {
    let program = env::current_exe().unwrap();
    let test = "upgrade::fake_successor::plays_its_part";
    put_script(path, &format!("{PART}='{part}' exec '{}' --exact {test} --nocapture", program.display()));
}

/// Not a test: the imposter's process. Without a part there is nothing to do.
#[test]
fn plays_its_part() {
    let Ok(part) = env::var(PART) else { return };
    let number = env::var("SSECAST_HANDOVER_FD").unwrap().parse().unwrap();
    #[expect(unsafe_code, reason = "an inherited descriptor is known by its number alone")]
    // SAFETY: the parent has put it there for this process, and it is taken once.
    let link = unsafe { OwnedFd::from_raw_fd(number) };
    let mut link = Some(UnixDatagram::from(link));
    let mut announced = 0;
    for step in part.split(' ') {
        let here = link.as_ref();
        let say = |word: Value| assert!(here.unwrap().send(word.to_string().as_bytes()).is_ok());
        match step {
            "hear" => announced = hear(here.unwrap())["State"]["descriptors"].as_u64().unwrap_or(announced),
            "take" => (0..announced.div_ceil(250)).for_each(|_| assert_eq!(hear(here.unwrap()), "Descriptors")),
            "Hello" => say(json!({ "Hello": { "version": 2 } })),
            "older" => say(json!({ "Hello": { "version": 1 } })),
            "fail" => say(json!({ "Failed": { "reason": "the moon is full" } })),
            "babble" => assert!(here.unwrap().send(b"\xff moo").is_ok()),
            "hang" => thread::sleep(Duration::from_secs(600)),
            "close" => drop(link.take()),
            word => say(Value::from(word)),
        }
    }
    process::exit(9)
}

fn hear(link: &UnixDatagram) -> Value {
    let mut word = vec![0; 64 << 10];
    let count = link.recv(&mut word).unwrap();
    assert_ne!(count, 0, "the old process has closed the link");
    serde_json::from_slice(&word[..count]).unwrap()
}
