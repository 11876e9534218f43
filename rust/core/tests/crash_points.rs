//! The list of crash points is that of the sources, and each of the log's is killed by a test.

use std::collections::BTreeSet;
use std::path::Path;

fn names(list: &str, table: &str) -> BTreeSet<String> {
    let entries =
        list.split("\n[[").filter(|entry| entry.trim_start_matches('[').starts_with(table));
    let name = |entry: &str| {
        let line = entry.lines().find_map(|line| line.strip_prefix("name = \""));
        line.unwrap().trim_end_matches('"').to_owned()
    };
    entries.map(name).collect()
}

fn collect(directory: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, found);
        } else {
            let text = std::fs::read_to_string(&path).unwrap();
            let points = text.split("crash_point!(\"").skip(1);
            found.extend(points.filter_map(|rest| rest.split('"').next().map(str::to_owned)));
        }
    }
}

#[test]
fn the_list_of_crash_points_is_that_of_the_sources() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let list = std::fs::read_to_string(root.join("tests/crash_points.toml")).unwrap();
    let (listed, dropped) = (names(&list, "point]]"), names(&list, "dropped]]"));
    let mut found = BTreeSet::new();
    collect(&root.join("src"), &mut found);
    assert_eq!(listed, found);
    assert!(listed.is_disjoint(&dropped));
    // The log's test kills a process at each of its own.
    let killed = std::fs::read_to_string(root.join("tests/log_crash.rs")).unwrap();
    let own = ["log.", "producer.", "txn.", "retention.", "compact.", "inbox."];
    for point in listed.iter().filter(|point| own.iter().any(|prefix| point.starts_with(prefix))) {
        assert!(killed.contains(&format!("(\"{point}\", &[")), "{point}");
    }
}
