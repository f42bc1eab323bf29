//! Checks of the source files: modules import from lower floors only, the imports within a folder have no cycle, each file
//! says what it is for, and none has a path of somebody's machine.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// The modules of each floor, lowest first.
pub(crate) const FLOORS: [&[&str]; 11] = [
    &["client_limit", "clock", "lock", "index", "name", "cursor", "gzip", "metrics"],
    &["sse", "stream", "log_rate", "pattern"],
    &["event", "config"],
    &["snapshot", "hub", "http"],
    &["broker", "access"],
    &["shard"],
    &["source", "admin", "public"],
    &["process"],
    &["app"],
    &["cli"],
    &["program"],
];

fn floor(module: &str) -> Option<usize> {
    FLOORS.iter().position(|modules| modules.contains(&module))
}

/// Whether `module` may import from `other`.
fn may_import(module: &str, other: &str) -> bool {
    module == other || floor(other) < floor(module)
}

/// Every Rust file of the library and the program, by its path under `src`, with its text.
fn sources() -> Vec<(PathBuf, String)> {
    fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, files);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&src, &mut files);
    files.sort();
    let read = |path: PathBuf| (path.strip_prefix(&src).unwrap().to_owned(), fs::read_to_string(&path).unwrap());
    files.into_iter().map(read).collect()
}

/// The module that a file belongs to: the first part of its path.
fn module_of(path: &Path) -> String {
    path.components().next().unwrap().as_os_str().to_string_lossy().trim_end_matches(".rs").to_owned()
}

/// The modules that `text` names after `crate::`, outside of comments.
fn imports(text: &str) -> BTreeSet<String> {
    let code: String = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    code.split("crate::").skip(1).flat_map(first_names).collect()
}

/// `a` of `a::b`, and `a` and `c` of `{a::{b, d}, c}`.
fn first_names(path: &str) -> Vec<String> {
    let name = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let Some(group) = path.strip_prefix('{') else { return vec![name(path)] };
    let mut depth = 0;
    let mut names = vec![name(group.trim_start())];
    for (index, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => names.push(name(group[index + 1..].trim_start())),
            _ => {}
        }
    }
    // A comma may stand after the last name.
    names.retain(|name| !name.is_empty());
    names
}

#[test]
fn a_module_imports_from_lower_floors_only() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let module = module_of(&path);
        // `lib.rs` declares the modules, and `main.rs` uses the library.
        if module == "lib" || module == "main" {
            continue;
        }
        if floor(&module).is_none() {
            wrong.push(format!("{}: the module {module:?} has no floor; give it one in FLOORS", path.display()));
            continue;
        }
        for other in imports(&text).into_iter().filter(|other| floor(other).is_some() && !may_import(&module, other)) {
            wrong.push(format!("{}: {module} must not import {other}", path.display()));
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

/// The files of each folder below `src`, by module name, without `mod.rs` and tests. A folder in it counts as one file.
fn folders() -> BTreeMap<PathBuf, BTreeMap<String, String>> {
    let mut folders: BTreeMap<PathBuf, BTreeMap<String, String>> = BTreeMap::new();
    for (path, text) in sources() {
        for folder in path.ancestors().skip(1).filter(|folder| *folder != Path::new("")) {
            let module = module_of(path.strip_prefix(folder).unwrap());
            if module == "mod" || module.ends_with("tests") {
                continue;
            }
            folders.entry(folder.to_owned()).or_default().entry(module).or_default().push_str(&text);
        }
    }
    folders
}

/// The modules beside it that a file names after `super::`, or by its folder's full path. Its own tests are left out.
fn neighbours(text: &str, folder: &Path) -> BTreeSet<String> {
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let code: String = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let full = format!("crate::{}::", folder.display().to_string().replace('/', "::"));
    let beside = code.split("super::").skip(1).chain(code.split(&*full).skip(1));
    beside.flat_map(first_names).collect()
}

/// Returns a cycle of imports among the files of a folder, if there is one.
fn cycle(imports: &BTreeMap<String, BTreeSet<String>>) -> Option<Vec<String>> {
    fn walk(at: &str, imports: &BTreeMap<String, BTreeSet<String>>, way: &mut Vec<String>) -> bool {
        if let Some(begin) = way.iter().position(|module| module == at) {
            way.drain(..begin);
            return true;
        }
        way.push(at.to_owned());
        let found = imports[at].iter().any(|next| imports.contains_key(next) && walk(next, imports, way));
        if !found {
            way.pop();
        }
        found
    }
    imports.keys().find_map(|module| {
        let mut way = Vec::new();
        walk(module, imports, &mut way).then_some(way)
    })
}

/// Folders whose cycle is not yet removed.
const CYCLES_LEFT: &[&str] = &[
    "config", // A value as typed suggests a key from the table, whose defaults are values as typed.
];

#[test]
fn imports_within_a_folder_have_no_cycle() {
    let mut wrong = Vec::new();
    for (folder, files) in folders() {
        if CYCLES_LEFT.iter().any(|left| folder == Path::new(left)) {
            continue;
        }
        let imports = |(module, text): (&String, &String)| {
            let mut names = neighbours(text, &folder);
            names.remove(module);
            (module.clone(), names)
        };
        if let Some(cycle) = cycle(&files.iter().map(imports).collect()) {
            wrong.push(format!("{}: {}", folder.display(), cycle.join(" -> ")));
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn an_import_cycle_is_found() {
    let graph = |arrows: &[(&str, &[&str])]| {
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        arrows.iter().map(|&(from, to)| (from.to_owned(), names(to))).collect()
    };
    assert_eq!(cycle(&graph(&[("a", &["b", "c"]), ("b", &["c"]), ("c", &["Type"])])), None);
    let found = cycle(&graph(&[("a", &["b"]), ("b", &["c"]), ("c", &["d", "b"]), ("d", &[])]));
    assert_eq!(found, Some(vec!["b".to_owned(), "c".to_owned()]));
    let text =
        "use super::{core::Shard, frames};\nuse crate::shard::wheel::Tick;\n#[cfg(test)]\nmod tests {\nuse super::x;";
    let expected = ["core", "frames", "wheel"].map(str::to_owned);
    assert_eq!(neighbours(text, Path::new("shard")), BTreeSet::from(expected));
}

#[test]
fn lib_rs_lists_the_modules_floor_by_floor() {
    let lib = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    let modules = |floor| str::lines(floor).filter_map(|line| line.strip_prefix("mod ")?.strip_suffix(';')).collect();
    let listed = lib.split("\n\n").map(modules).filter(|modules: &BTreeSet<&str>| !modules.is_empty());
    assert_eq!(listed.collect::<Vec<_>>(), FLOORS.map(|modules| modules.iter().copied().collect()));
}

#[test]
fn every_file_begins_with_what_it_is_for() {
    let silent: Vec<_> =
        sources().into_iter().filter(|(_, text)| !text.starts_with("//! ")).map(|(path, _)| path).collect();
    assert_eq!(silent, Vec::<PathBuf>::new());
}

#[test]
fn no_file_names_a_path_of_somebodys_machine() {
    let folders = ["work", "root", "home"].map(|folder| format!("/{folder}/"));
    let has_path = |text: &str| folders.iter().any(|path| text.contains(path));
    let with_path: Vec<_> = sources().into_iter().filter(|(_, text)| has_path(text)).map(|(path, _)| path).collect();
    assert_eq!(with_path, Vec::<PathBuf>::new());
}

#[test]
fn imports_are_found_in_all_their_forms() {
    let text = "//! [`crate::cli`]\nuse crate::{\n    // crate::app\n    hub::{Hub, Join},\n    event::Event,\n    sse,\n};\n\
        use crate::cursor::Cursor;\npub(crate) fn f() -> crate::config::Config {}\nuse crate::{metrics, access::peer::{A, B}};";
    let expected = ["access", "config", "cursor", "event", "hub", "metrics", "sse"].map(str::to_owned);
    assert_eq!(imports(text), BTreeSet::from(expected));
    assert!(
        may_import("app", "shard")
            && may_import("event", "cursor")
            && !may_import("cursor", "event")
            && may_import("hub", "hub")
    );
    assert!(!may_import("hub", "shard") && !may_import("broker", "access") && !may_import("config", "event"));
}
