//! `[publish]`, and the check that an admin socket on TCP needs a key.

use std::{fs, path::PathBuf};

use super::listen::Listen;
use crate::config::{
    address::Address,
    errors::{Problem, Problems, reason},
    reader::Reader,
    table::table,
    value::Value,
    values::{group_id, list, positive_size, text, user_id},
};

table! {
    /// `[publish]`: who may publish, and how much.
    pub struct Publish from [publish] {
        /// Files with one key a line, of which publishers give one.
        pub key_files: KeyFiles = key_files([]);
        /// Users that may publish, by name or number.
        pub users: Vec<u32> = user_ids([]);
        /// Groups whose members may publish, by name or number.
        pub groups: Vec<u32> = group_ids([]);
        /// Most bytes of one message.
        pub max_message: usize = positive_size("1MiB");
    }
}

/// Files with keys, and the keys in them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeyFiles {
    /// The files.
    pub paths: Vec<PathBuf>,
    /// The keys of all files.
    pub keys: Vec<String>,
}

impl Publish {
    /// Checks that an admin socket on TCP is protected by a key, unless it is on loopback. `reader` is that of `[listen]`.
    pub(in crate::config) fn check(&self, listen: &Listen, reader: &mut Reader<'_>) {
        // Errors of the key files have been reported already.
        if !self.key_files.keys.is_empty() || reader.has_error("publish.key_files") {
            return;
        }
        let tcp = |address: &Address| if let Address::Tcp(address) = address { Some(*address) } else { None };
        let mut tcp = listen.admin.iter().filter_map(tcp).peekable();
        let has_tcp = tcp.peek().is_some();
        if let Some(address) = tcp.find(|address| !address.ip().is_loopback()) {
            let problem = Problem::new(
                format!("anyone who reaches {address} could publish"),
                "set publish.key_files, or use a path or tcp://127.0.0.1",
            );
            reader.refuse(&["admin"], problem);
        } else if has_tcp && (!self.users.is_empty() || !self.groups.is_empty()) {
            let problem = Problem::new(
                "publish.users and publish.groups can't be checked on TCP, which doesn't say who connects",
                "use a path, or set publish.key_files",
            );
            reader.refuse(&["admin"], problem);
        }
    }
}

fn user_ids(value: &Value) -> Result<Vec<u32>, Problems> {
    list(value, user_id)
}

fn group_ids(value: &Value) -> Result<Vec<u32>, Problems> {
    list(value, group_id)
}

fn key_files(value: &Value) -> Result<KeyFiles, Problems> {
    let (paths, keys): (_, Vec<_>) = list(value, keys_of_file)?.into_iter().unzip();
    Ok(KeyFiles { paths, keys: keys.concat() })
}

/// A file, and the keys in it: one a line. Blank lines and those that begin with `#` are skipped.
fn keys_of_file(value: &Value) -> Result<(PathBuf, Vec<String>), Problem> {
    let path = text(value, "write the path of a file, in quotes")?;
    let content = fs::read(path).map_err(|error| {
        let fix = "write the path of a file with one key a line, which ssecast may read";
        Problem::new(format!("{path:?} can't be read ({})", reason(&error)), fix)
    })?;
    let content = String::from_utf8(content)
        .map_err(|_| Problem::new(format!("{path:?} is not UTF-8"), "write one key a line into it, as text"))?;
    let lines = content.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let keys: Vec<String> = lines.map(str::to_owned).collect();
    if keys.is_empty() {
        let fix = "write one into it (openssl rand -hex 24), or leave the file out";
        return Err(Problem::new(format!("{path:?} has no key"), fix));
    }
    Ok((path.into(), keys))
}
