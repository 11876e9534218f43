//! Which folder may name which: the sources are read, and what points upwards fails.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The modules of the core, lowest first. One may name those of lower layers and itself, never one
/// beside or above it: so there are no circles.
const LAYERS: &[&[&str]] = &[
    &["error"],
    &["crash", "hash", "random", "wakeup"],
    &["environment", "rows", "sequence", "align", "checkpoint"],
    &["snapshot"],
    &["state", "store"],
    &["backend", "log"],
];

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Path within `src` and text, without comments, of every source file.
fn files() -> BTreeMap<String, String> {
    let (root, mut found) = (sources(), BTreeMap::new());
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                let code = text.lines().map(|line| line.split("//").next().unwrap_or_default());
                let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
                found.insert(name, code.collect::<Vec<_>>().join("\n"));
            }
        }
    }
    found
}

/// The module at the crate's root that a file belongs to; `None` for the root itself.
fn module_of(file: &str) -> Option<&str> {
    let first = file.split(['/', '.']).next()?;
    (first != "lib").then_some(first)
}

/// The modules that a text names from the crate's root, as `crate::name` or `crate::{name, …}`.
fn named(code: &str) -> Vec<String> {
    let mut names = Vec::new();
    for (at, start) in code.match_indices("crate::") {
        let rest = &code[at + start.len()..];
        let Some(group) = rest.strip_prefix('{') else {
            names.push(word(rest));
            continue;
        };
        let mut depth = 0;
        let mut from = 0;
        for (at, letter) in group.char_indices() {
            match letter {
                '{' => depth += 1,
                '}' | ',' if depth == 0 => {
                    names.push(word(group[from..at].trim()));
                    from = at + 1;
                    if letter == '}' {
                        break;
                    }
                }
                '}' => depth -= 1,
                _ => {}
            }
        }
    }
    // A macro lies at the root; what the root re-exports of errors begins with a capital.
    names.retain(|name| name.starts_with(|letter: char| letter.is_ascii_lowercase()));
    names
        .into_iter()
        .map(|name| if name == "crash_point" { "crash".into() } else { name })
        .collect()
}

fn word(text: &str) -> String {
    text.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect()
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// About circles: two folders that need each other can only be understood, and moved, together.
#[test]
fn a_folder_names_only_folders_below_it() {
    let mut wrong = Vec::new();
    let mut edges = 0;
    for (file, code) in files() {
        let Some(module) = module_of(&file) else { continue };
        let Some(own) = layer(module) else {
            wrong.push(format!("{file}: {module} has no layer in this test yet"));
            continue;
        };
        for name in named(&code) {
            if name == module {
                continue;
            }
            edges += 1;
            match layer(&name) {
                None => wrong.push(format!("{file} names {name}, which has no layer")),
                Some(other) if other >= own => {
                    wrong.push(format!("{file} names {name}, which is not below {module}"));
                }
                Some(_) => {}
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(edges > 50, "the sources are not read as they are written: {edges} imports found");
}

/// About the layers above going stale: each module that they name is one.
#[test]
fn every_layer_holds_modules_that_exist() {
    for module in LAYERS.iter().copied().flatten() {
        let path = sources().join(module);
        assert!(path.is_dir() || path.with_extension("rs").is_file(), "{module} is gone");
    }
}

/// About the reader of the sources itself: both ways to name a module are seen.
#[test]
fn both_ways_to_name_a_module_are_read() {
    let code = "use crate::{Error, state::{Table, Keys}, hash};\ncrate::log::open();\n\
                crate::crash_point!(\"x\"); pub(crate) mod y;";
    assert_eq!(named(code), ["state", "hash", "log", "crash"]);
}

/// About heed and `unsafe` spreading: each is to be understood in one place.
#[test]
fn heed_and_unsafe_code_stay_where_they_are() {
    let with = |what: &str| -> Vec<String> {
        let holds = |(file, code): (String, String)| code.contains(what).then_some(file);
        files().into_iter().filter_map(holds).collect()
    };
    assert_eq!(with("heed::"), ["environment/lmdb.rs"]);
    assert_eq!(with("unsafe {"), ["environment/lmdb.rs", "state/prefetch.rs"]);
    assert_eq!(with("allow(unsafe_code)"), ["environment/lmdb.rs", "state/prefetch.rs"]);
}
