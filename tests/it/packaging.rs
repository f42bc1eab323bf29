//! The scripts under packaging/, run in a copy of the tree with a stand-in for cargo and for the programs. Builds nothing.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Command, Output},
};

use crate::support::Folder;

/// A tree of links to this repository, with a target folder of its own.
struct Tree {
    folder: Folder,
}

impl Tree {
    fn new() -> Self {
        let tree = Self { folder: Folder::new() };
        fs::create_dir(tree.path("root")).unwrap();
        for entry in fs::read_dir(env!("CARGO_MANIFEST_DIR")).unwrap() {
            let entry = entry.unwrap();
            if entry.file_name() != "target" {
                symlink(entry.path(), tree.path("root").join(entry.file_name())).unwrap();
            }
        }
        tree.program("bin/cargo", "echo \"cargo $*\"");
        tree.program("bin/cargo-deb", "exit 1");
        tree.program("bin/python3", "echo licences"); // packaging/licences.py asks cargo.
        for name in ["ssecast", "ssecast-bench"] {
            let man = "for last; do :; done; mkdir -p \"$last\"; echo page | tee \"$last/a.1\" >\"$last/a.5\"";
            tree.program(
                &format!("elsewhere/release/{name}"),
                &format!("case $1,$2 in man,--to) {man} ;; *) echo $0 ;; esac"),
            );
        }
        tree
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path(name)
    }

    fn program(&self, name: &str, script: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Runs a script of packaging/ with the target folder `elsewhere`.
    fn run(&self, script: &str, environment: &[(&str, &Path)]) -> Output {
        let path = format!("{}:{}", self.path("bin").display(), std::env::var("PATH").unwrap());
        Command::new("sh")
            .arg(self.path("root/packaging").join(script))
            .env("PATH", path)
            .env("CARGO_TARGET_DIR", self.path("elsewhere"))
            .envs(environment.iter().copied())
            .output()
            .unwrap()
    }
}

/// `sh packaging/deb` looked for the programs under target/release of the repository.
#[test]
fn the_package_is_made_of_the_programs_in_the_target_folder_that_cargo_is_given() {
    let tree = Tree::new();
    let output = tree.run("deb", &[]);
    assert!(output.status.success(), "{output:?}");
    let printed = String::from_utf8_lossy(&output.stdout);
    assert_eq!(printed, "cargo build --release --locked\ncargo deb --no-build --locked\n");
    // Where the assets of Cargo.toml are.
    for name in ["ssecast.toml", "man/a.5", "completions/bash/ssecast", "licences-of-libraries.txt"] {
        assert!(tree.path("root/target/package").join(name).is_file(), "{name}");
    }
}

/// So did `sh packaging/install`.
#[test]
fn the_plain_installation_takes_the_programs_from_the_target_folder_that_cargo_is_given() {
    let tree = Tree::new();
    let output = tree.run("install", &[("DESTDIR", &tree.path("installed"))]);
    assert!(output.status.success(), "{output:?}");
    let installed = tree.path("installed/usr/local/bin/ssecast");
    assert_eq!(fs::read(installed).unwrap(), fs::read(tree.path("elsewhere/release/ssecast")).unwrap());
    assert!(tree.path("installed/etc/ssecast/ssecast.toml").is_file());
    fs::remove_file(tree.path("elsewhere/release/ssecast")).unwrap();
    let output = tree.run("install", &[("DESTDIR", &tree.path("installed"))]);
    let printed = String::from_utf8_lossy(&output.stderr);
    assert!(printed.contains("elsewhere/release/ssecast does not exist"), "{printed}");
}
