//! A lower module never imports a higher one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

use std::fs;
use std::path::{Path, PathBuf};

/// From the lowest up. Modules of one layer do not import each other.
const LAYERS: &[&[&str]] = &[
    &["numbered"],
    &["clock", "error", "rng"],
    &["classify"],
    &["retry"],
    &["event"],
    &["sync"],
    &["session"],
    &["handoff"],
    &["sqlite"],
    &["turn"],
    &["writer"],
];

fn layer(module: &str) -> usize {
    LAYERS
        .iter()
        .position(|layer| layer.contains(&module))
        .unwrap_or_else(|| panic!("module {module} has no layer: add it to LAYERS"))
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The names that follow `crate::` in code, also in `crate::{a, b::c}`.
fn imports(source: &str) -> Vec<String> {
    let code: String = source
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .flat_map(|line| [line, " "])
        .collect();
    let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    let mut names = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let Some(group) = rest.strip_prefix('{') else {
            names.push(word(rest));
            continue;
        };
        let (mut depth, mut expects_name) = (0, true);
        for (at, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => expects_name = true,
                c if expects_name && !c.is_whitespace() => {
                    names.push(word(&group[at..]));
                    expects_name = false;
                }
                _ => {}
            }
        }
    }
    names
}

#[test]
fn arrows_go_down() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut checked = 0;
    for file in files {
        let relative = file.strip_prefix(&root).unwrap();
        let module = relative.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs");
        if module == "lib" {
            continue;
        }
        for import in imports(&fs::read_to_string(&file).unwrap()) {
            // What the crate root re-exports belongs to the lowest layers.
            if import == module || import.starts_with(char::is_uppercase) {
                continue;
            }
            assert!(layer(&import) < layer(module), "{} imports {import}", relative.display());
            checked += 1;
        }
    }
    assert!(checked > 5, "only {checked} imports found");
}

#[test]
fn imports_are_found() {
    let source =
        "use crate::a::B;\n// crate::no\nuse crate::{c::{D, E}, f};\nlet x = crate::g::h();";
    assert_eq!(imports(source), ["a", "c", "f", "g"]);
}
