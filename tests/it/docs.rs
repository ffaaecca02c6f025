//! What the documents name is there.

use std::fs;
use std::path::Path;

use towpath::domain::access::Right;

/// Whether there is a test, or a module of tests, of this name: a path of modules of `tests/it`, or a
/// file and a function.
fn is_there(name: &str) -> bool {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let holds = |file: &Path, function: &str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        text.contains(&format!("fn {function}("))
    };
    if let Some((file, function)) = name.split_once(": ") {
        return holds(&root.join(file), function);
    }
    let files = |module: &str| {
        let module = root.join("tests/it").join(module.replace("::", "/"));
        [module.with_extension("rs"), module.join("mod.rs")]
    };
    let is_module = files(name).iter().any(|file| file.exists());
    let is_function = name
        .rsplit_once("::")
        .is_some_and(|(module, function)| files(module).iter().any(|file| holds(file, function)));
    is_module || is_function
}

#[test]
fn every_test_that_the_guarantees_name_is_where_they_say() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let document = fs::read_to_string(root.join("docs/guarantees.md")).unwrap();
    let rows = document.lines().filter(|line| line.starts_with("| "));
    let names: Vec<_> = rows
        .filter_map(|row| row.trim_end_matches('|').rsplit_once("| "))
        .flat_map(|(_, shown_by)| shown_by.split('`').skip(1).step_by(2))
        .collect();
    assert!(names.len() > 20, "the table was found");
    for name in names {
        assert!(is_there(name), "{name}");
    }
    for name in [
        "store::engine::no_such_test",
        "nowhere",
        "store::plans::check",
    ] {
        assert!(!is_there(name), "{name}");
    }
}

/// Texts that list the rights, each by a line that begins like this, or two.
const LISTS_OF_RIGHTS: [(&str, &str); 4] = [
    ("README.md", "The rights are "),
    ("docs/api.md", "`POST /v1/tokens` needs the right "),
    ("src/cli/token.rs", "Scopes: "),
    ("src/http/rest/tokens.rs", "    /// What it allows: "),
];

#[test]
fn every_right_is_named_where_rights_are_listed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (file, beginning) in LISTS_OF_RIGHTS {
        let text = fs::read_to_string(root.join(file)).unwrap();
        let lines = text.lines().skip_while(|line| !line.starts_with(beginning));
        let list: String = lines.take(2).collect();
        for right in Right::ALL.map(Right::name) {
            assert!(list.contains(right), "{file} does not name {right}");
        }
    }
}
