//! The lines that the terminal and the page offer for pasting.

use super::{
    folder::Folder,
    source::{self, Source},
};

/// A command to paste.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    /// What it does, in two or three words.
    pub(super) what: &'static str,
    /// The command.
    pub(super) text: String,
    /// Whether there is a password in it.
    pub(super) secret: bool,
}

/// The lines that publish on the channel `demo`, and one that reads it.
pub(super) fn lines(folder: &Folder, source: &Source, page: &str) -> Vec<Line> {
    let admin = folder.admin();
    let publish =
        format!("curl --unix-socket {} -d channel=demo -d message=hello http://ssecast/publish", admin.display());
    let watch = format!("curl -N '{page}sse/?channels=demo'");
    let line = |what, text| Line { what, text, secret: false };
    let redis = source.url.as_deref().map(source::redis_cli);
    [line("Publish with curl", publish)]
        .into_iter()
        .chain(redis)
        .chain([line("Watch the stream as it is", watch)])
        .collect()
}
