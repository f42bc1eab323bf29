//! The documentation: its links work, the README is short, and what it quotes from the program is in the program.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use clap::CommandFactory as _;
use ssecast_bench::BenchArgs;

use crate::{
    floors::FLOORS,
    support::{Folder, daemon},
};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every page of the documentation.
fn pages() -> Vec<PathBuf> {
    let markdown = |folder: PathBuf| {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect::<Vec<_>>()
    };
    let mut pages = markdown(root());
    pages.extend(markdown(root().join("docs")));
    if root().join("examples").is_dir() {
        pages.extend(markdown(root().join("examples")));
    }
    pages.sort();
    pages
}

/// The lines outside of code blocks.
fn prose(text: &str) -> Vec<String> {
    let mut in_code = false;
    let mut lines = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        } else if !in_code {
            lines.push(line.to_owned());
        }
    }
    lines
}

/// The targets of `[text](target)`, `![text](target)` and `<img src="target">`.
fn links(text: &str) -> Vec<String> {
    let between = |line: &str, before: &str, after: char| -> Vec<String> {
        let parts = line.split(before).skip(1);
        parts.filter_map(|part| part.split_once(after)).map(|(target, _)| target.to_owned()).collect()
    };
    prose(text).iter().flat_map(|line| [between(line, "](", ')'), between(line, "src=\"", '"')].concat()).collect()
}

/// The anchors that a page's headings have: lower case, spaces as hyphens, punctuation left out.
fn anchors(text: &str) -> BTreeSet<String> {
    let heading = |line: &String| line.starts_with('#').then(|| line.trim_start_matches('#').trim().to_lowercase());
    let anchor = |heading: String| {
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    prose(text).iter().filter_map(heading).map(anchor).collect()
}

/// What is wrong with the link `target` of `page`.
fn broken(page: &Path, target: &str) -> Option<String> {
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
    let file = if path.is_empty() { page.to_owned() } else { page.parent().unwrap().join(path) };
    if !file.exists() {
        return Some(format!("{}: there is no {target}", page.display()));
    }
    if anchor.is_empty() || anchors(&read(&file)).contains(anchor) {
        return None;
    }
    Some(format!("{}: {target} has no such heading", page.display()))
}

#[test]
fn every_link_has_an_existing_file_and_heading() {
    let pages = pages();
    assert!(pages.len() > 10, "{pages:?}");
    let mut count = 0;
    let mut wrong = Vec::new();
    for page in &pages {
        let links = links(&read(page));
        count += links.len();
        wrong.extend(links.iter().filter_map(|target| broken(page, target)));
    }
    assert_eq!(wrong, Vec::<String>::new());
    assert!(count > 30, "only {count} links were found");
}

#[test]
fn a_broken_link_is_found() {
    let page = root().join("README.md");
    for (target, is_broken) in [
        ("docs/nginx.md", false),
        ("docs/nginx.md#who-may-read", false),
        ("docs/nginx.md#who-may-not-read", true),
        ("docs/nothing.md", true),
        ("https://example.org/nothing", false),
        ("#quick-start", false),
        ("#slow-start", true),
    ] {
        assert_eq!(broken(&page, target).is_some(), is_broken, "{target}");
    }
    let page = "[a](b.md) and ![c](d.svg)\n```\n[no](link.md)\n```\n<img src=\"e.png\" width=\"640\">";
    assert_eq!(links(page), ["b.md", "d.svg", "e.png"]);
}

#[test]
fn the_readme_has_at_most_150_lines() {
    let lines = read(&root().join("README.md")).lines().count();
    assert!(lines <= 150, "README.md has {lines} lines: move what is more into docs/");
}

#[test]
fn the_readmes_headline_figures_are_those_of_the_measurements() {
    let measured = read(&root().join("docs/speed.md"));
    let readme = read(&root().join("README.md"));
    let rows = readme.lines().skip_while(|line| !line.starts_with("| measured on")).skip(2);
    let rows: Vec<&str> = rows.take_while(|line| line.starts_with('|')).collect();
    assert_eq!(rows.len(), 3, "{rows:?}");
    for row in rows {
        // Numbers with a unit or a fraction: "0.63 KiB", "1.1 s", "6.6 times".
        let words: Vec<&str> = row.split(|c: char| c.is_whitespace() || "*|".contains(c)).collect();
        for figure in words.iter().filter(|word| word.contains('.') && word.parse::<f64>().is_ok()) {
            assert!(measured.contains(figure), "docs/speed.md has no {figure}: {row}");
        }
    }
}

/// Every link of a page that the package installs leads to a file that the package installs as well, at the same place.
#[test]
fn the_packages_doc_folder_has_no_dead_link() {
    let manifest = read(&root().join("Cargo.toml"));
    let install = read(&root().join("packaging/install"));
    for page in pages() {
        for target in links(&read(&page)).iter().filter(|target| !target.contains("://") && !target.starts_with('#')) {
            let path = target.split('#').next().unwrap();
            let file = page.parent().unwrap().join(path).canonicalize().unwrap();
            let file = file.strip_prefix(root().canonicalize().unwrap()).unwrap().to_str().unwrap().to_owned();
            let folder = Path::new(&file).parent().unwrap().to_str().unwrap();
            let extension = Path::new(&file).extension().map_or("", |extension| extension.to_str().unwrap());
            let into = format!("usr/share/doc/ssecast/{folder}");
            let into = into.trim_end_matches('/');
            let names = [file.clone(), format!("{folder}/*.{extension}"), format!("{folder}/*")];
            let packaged = names.iter().any(|name| manifest.contains(&format!("[\"{name}\", \"{into}/\", \"644\"]")));
            assert!(packaged, "{}: the Debian package lacks {file} in {into}/", page.display());
            assert!(names.iter().any(|name| install.contains(name)), "packaging/install lacks {file}");
        }
    }
}

/// The text of every Rust file of the daemon, with string literals that continue on the next line joined.
fn source() -> String {
    fn collect(folder: &Path, text: &mut String) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, text);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                text.push_str(&read(&path));
            }
        }
    }
    let mut text = String::new();
    collect(&root().join("src"), &mut text);
    let mut joined = String::with_capacity(text.len());
    for line in text.lines() {
        joined.push_str(if joined.ends_with('\u{1}') { line.trim_start() } else { line });
        if joined.ends_with('\\') {
            joined.pop();
            joined.push('\u{1}');
        } else {
            joined.push('\n');
        }
    }
    joined.replace('\u{1}', "")
}

#[test]
fn log_lines_in_the_documentation_are_in_the_source() {
    let source = source();
    let page = read(&root().join("docs/operate.md"));
    // The first cell of a row: "`one`" or "`one`, or `another`".
    let cell = |line: &str| line.strip_prefix("| ")?.split_once(" |").map(|(cell, _)| cell.to_owned());
    let quotes = |cell: String| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    let table = page.lines().skip_while(|line| !line.starts_with("| in the log |")).take_while(|line| !line.is_empty());
    let quoted: Vec<_> = table.filter(|line| line.starts_with("| `")).filter_map(cell).flat_map(quotes).collect();
    assert!(quoted.len() >= 5, "{quoted:?}");
    // "…" stands for what differs each time.
    let is_logged = |line: &str| line.split('…').all(|part| source.contains(part.trim_end()));
    let absent: Vec<_> = quoted.into_iter().filter(|line| !is_logged(line)).collect();
    assert_eq!(absent, Vec::<String>::new(), "docs/operate.md explains what nothing logs");
}

/// The code blocks of all pages in `language`, each with its page.
fn blocks(language: &str) -> Vec<(PathBuf, String)> {
    let fence = format!("```{language}\n");
    let of_page = |page: PathBuf| {
        // Blocks in lists are indented; what is asked of them holds with and without.
        let text = read(&page);
        let bodies = text.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap().to_owned());
        bodies.map(|body| (page.clone(), body)).collect::<Vec<_>>()
    };
    pages().into_iter().flat_map(of_page).collect()
}

#[test]
fn configurations_in_the_documentation_pass_the_check() {
    let folder = Folder::new();
    let keys = folder.write("keys", "a-key\n");
    let blocks = blocks("toml");
    assert!(blocks.len() >= 3, "{blocks:?}");
    for (page, text) in blocks {
        // Accounts and files that are on this machine as well.
        let text = text.replace("\"www-data\"", "\"root\"").replace("user = \"ssecast\"", "user = \"nobody\"");
        let text = text.replace("/etc/ssecast/keys", keys.to_str().unwrap());
        let text = text.replace("/run/", &format!("{}/", folder.path("").display()));
        let text = text.replace("/var/log/ssecast/", &format!("{}/", folder.path("").display()));
        let file = folder.write("ssecast.toml", &text);
        let output = daemon::run(&["check", "--config", file.to_str().unwrap()], b"");
        let printed = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {printed}\n{text}", page.display());
    }
}

#[test]
fn commands_in_the_documentation_use_existing_flags() {
    let mut checked = 0;
    for (page, text) in blocks("sh") {
        for line in text.lines().filter(|line| !line.trim_start().starts_with('#')) {
            let command = line.split(" #").next().unwrap();
            for part in command.split(['|', ';', '&', '$']) {
                let words: Vec<&str> = part.split_whitespace().collect();
                let Some(at) = words.iter().position(|word| *word == "ssecast") else { continue };
                // `systemctl status ssecast` and paths that end so are no commands of ours.
                let Some(subcommand) = words.get(at + 1).filter(|_| at == 0) else { continue };
                let known = match *subcommand {
                    // `ssecast bench` passes its arguments to a program that may not have been built.
                    "bench" => BenchArgs::command().render_long_help().to_string(),
                    _ => {
                        let help = daemon::run(&[subcommand, "--help"], b"");
                        assert!(
                            help.status.success(),
                            "{}: there is no `ssecast {subcommand}`: {line}",
                            page.display()
                        );
                        String::from_utf8_lossy(&help.stdout).into_owned()
                    }
                };
                for flag in words.iter().filter(|word| word.starts_with("--")) {
                    let flag = flag.split('=').next().unwrap();
                    assert!(known.contains(flag), "{}: `ssecast {subcommand}` has no {flag}", page.display());
                }
                checked += 1;
            }
        }
    }
    assert!(checked >= 10, "only {checked} commands were found");
}

#[test]
fn architecture_lists_each_module_on_its_floor() {
    let page = read(&root().join("ARCHITECTURE.md"));
    for (floor, modules) in FLOORS.iter().enumerate() {
        let lines: Vec<&str> = page.lines().filter(|line| line.starts_with(&format!("{floor} "))).collect();
        for module in *modules {
            let names = [format!("{module}/"), format!("{module}.rs")];
            let is_listed =
                lines.iter().flat_map(|line| line.split_whitespace()).any(|word| names.contains(&word.to_owned()));
            assert!(is_listed, "ARCHITECTURE.md should list {module} on floor {floor}: {lines:?}");
        }
    }
}

#[test]
fn rows_of_a_table_have_as_many_cells_as_its_head() {
    let cells = |line: &str| line.replace("\\|", "").matches('|').count();
    let mut wrong = Vec::new();
    for page in pages() {
        let mut head = None;
        for line in prose(&read(&page)) {
            if !line.starts_with('|') {
                head = None;
            } else if cells(&line) != *head.get_or_insert(cells(&line)) {
                wrong.push(format!("{}: {line}", page.display()));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn source_files_that_the_documentation_names_exist() {
    fn collect(folder: &Path, files: &mut Vec<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, files);
            } else {
                files.push(path.to_str().unwrap().to_owned());
            }
        }
    }
    let mut files = Vec::new();
    collect(&root().join("src"), &mut files);
    collect(&root().join("tests/it"), &mut files);
    let mut absent = Vec::new();
    for page in ["ARCHITECTURE.md", "CONTRIBUTING.md"] {
        for line in prose(&read(&root().join(page))) {
            // `hub/mod.rs`, or `phase.rs` where the sentence names the folder before. TABLE and NAME stand for any.
            let named = line.split('`').skip(1).step_by(2).filter(|name| name.ends_with(".rs"));
            let named = named.filter(|name| !name.contains(|c: char| c.is_ascii_uppercase()));
            let is_absent = |name: &&str| !files.iter().any(|file| file.ends_with(&format!("/{name}")));
            absent.extend(named.filter(is_absent).map(|name| format!("{page}: {name}")));
        }
    }
    assert_eq!(absent, Vec::<String>::new());
}

#[test]
fn the_commands_for_several_sites_make_valid_units() {
    let folder = Folder::new();
    let made = folder.path("");
    let commands = blocks("sh").into_iter().map(|(_, block)| block).find(|block| block.contains("%i.toml")).unwrap();
    let commands = commands.replace("/usr/lib/systemd/system", root().join("systemd").to_str().unwrap());
    let commands = commands.replace("/etc/systemd/system", made.to_str().unwrap());
    assert!(Command::new("sh").args(["-ec", &commands]).status().unwrap().success());

    let unit = |name: &str| read(&folder.path(name));
    let service = unit("ssecast@.service");
    for line in [
        "Requires=ssecast@%i.socket ssecast-admin@%i.socket",
        "ExecStart=/usr/bin/ssecast serve --config /etc/ssecast/%i.toml",
        "ExecReload=/usr/bin/ssecast reload --admin-socket /run/ssecast/%i-admin.sock",
    ] {
        assert!(service.lines().any(|known| known == line), "no {line} in {service}");
    }
    for (name, path) in [("ssecast@.socket", "%i.sock"), ("ssecast-admin@.socket", "%i-admin.sock")] {
        let socket = unit(name);
        assert!(socket.contains(&format!("ListenStream=/run/ssecast/{path}\n")), "{socket}");
        assert!(socket.contains("Service=ssecast@%i.service\n"), "{socket}");
    }
}
