//! A server for tests: sends prepared answers, one for each connection, and records the requests. Parses none.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixListener,
    thread::JoinHandle,
};

use crate::config::Address;

/// A socket in its own folder, and the thread that answers on it.
pub(super) struct Stub {
    folder: tempfile::TempDir,
    thread: JoinHandle<Vec<Vec<u8>>>,
}

impl Stub {
    /// Answers the first connection with `answers[0]`, the next with `answers[1]`, and then no more.
    pub(super) fn start(answers: &[&[u8]]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("s.sock")).unwrap();
        let answers: Vec<Vec<u8>> = answers.iter().map(|answer| answer.to_vec()).collect();
        let answer_all = move || answers.iter().map(|answer| answer_one(&listener, answer)).collect();
        Self { folder, thread: std::thread::spawn(answer_all) }
    }

    pub(super) fn address(&self) -> Address {
        Address::Unix(self.folder.path().join("s.sock"))
    }

    /// Waits until all answers are sent, and returns the requests.
    pub(super) fn requests(self) -> Vec<Vec<u8>> {
        self.thread.join().unwrap()
    }
}

fn answer_one(listener: &UnixListener, answer: &[u8]) -> Vec<u8> {
    let (mut socket, _) = listener.accept().unwrap();
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    while !is_complete(&request) {
        let count = socket.read(&mut buffer).unwrap();
        assert_ne!(count, 0, "half a request: {}", String::from_utf8_lossy(&request));
        request.extend_from_slice(&buffer[..count]);
    }
    socket.write_all(answer).unwrap();
    request
}

fn is_complete(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request).to_lowercase();
    let Some(head) = text.find("\r\n\r\n") else { return false };
    let length = text[..head].lines().find_map(|line| line.strip_prefix("content-length: "));
    let length: usize = length.map_or(0, |length| length.parse().unwrap());
    // The head is ASCII in these tests, so its length in the text is its length in bytes.
    request.len() >= head + 4 + length
}
