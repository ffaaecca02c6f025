//! What the documents name is there.

use std::fs;
use std::path::Path;

use towpath::domain::access::Right;

/// The text of every Rust file below a folder of the repository.
fn sources(folder: &Path) -> String {
    let mut text = String::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            text.push_str(&sources(&path));
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            text.push_str(&fs::read_to_string(&path).unwrap());
        }
    }
    text
}

#[test]
fn every_test_that_the_guarantees_name_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let code = sources(&root.join("tests")) + &sources(&root.join("src"));
    let document = fs::read_to_string(root.join("docs/guarantees.md")).unwrap();
    let rows = document.lines().filter(|line| line.starts_with("| "));
    let names: Vec<_> = rows
        .filter_map(|row| row.trim_end_matches('|').rsplit_once("| "))
        .flat_map(|(_, shown_by)| shown_by.split('`').skip(1).step_by(2))
        .collect();
    assert!(names.len() > 20, "the table was found");
    for name in names {
        let function = name.rsplit([':', ' ']).next().unwrap_or(name);
        let is_there = [format!("fn {function}("), format!("mod {function};")];
        assert!(is_there.iter().any(|text| code.contains(text)), "{name}");
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
