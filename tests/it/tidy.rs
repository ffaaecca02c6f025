//! The rules of the house that no compiler checks: who may import whom, who may use which crate,
//! and how files begin and are named.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use syn::visit::Visit;
use syn::{UseTree, visit};

/// Who may import whom. A module may use what is its own, and what its row lists; the longest
/// module that has a row counts. A path stands for all that is in it.
///
/// `config` reads limits from the domain, so that a setting and a request have the same bounds.
/// `telemetry` is set up by the configuration. `postgres` hands out a database and knows nothing
/// of what is kept there. `main` turns two kinds of errors into exit codes.
const LAYERS: &[(&str, &[&str])] = &[
    ("lib", &[]),
    ("main", &["cli", "config::Error", "postgres::Error"]),
    (
        "cli",
        &[
            "app",
            "clock",
            "config",
            "domain::limits",
            "http::rest::openapi",
            "postgres::exec_with_parent",
            "telemetry",
        ],
    ),
    (
        "app",
        &[
            "auth",
            "broker",
            "clock",
            "config",
            "domain",
            "http",
            "maintenance",
            "metrics",
            "postgres",
            "service",
            "store",
        ],
    ),
    ("http", &["auth", "clock", "domain", "metrics", "service"]),
    // Doors know of each other only what stands in `http` itself, but for two things: the list of
    // routes is in `rest`, because it is the OpenAPI document; and all of REST fails alike.
    (
        "http::rest",
        &[
            "auth",
            "clock",
            "domain",
            "service",
            "http::Gate",
            "http::authorized",
            "http::ops",
            "http::request_id",
            "http::scrapes",
        ],
    ),
    (
        "http::ops",
        &[
            "clock",
            "domain",
            "http::Gate",
            "http::rest::Json",
            "http::rest::problem",
            "http::to_its_end",
        ],
    ),
    (
        "http::scrapes",
        &[
            "domain",
            "metrics",
            "http::Gate",
            "http::authorized",
            "http::rest::NoQuery",
            "http::rest::problem",
        ],
    ),
    ("service", &["broker", "domain", "metrics", "store"]),
    ("broker", &["clock", "domain", "metrics", "store"]),
    (
        "maintenance",
        &["broker", "clock", "domain", "metrics", "store"],
    ),
    ("metrics", &["clock", "domain"]),
    ("store", &["domain"]),
    ("auth", &["domain"]),
    ("config", &["domain::limits"]),
    ("telemetry", &["config"]),
    ("postgres", &["clock"]),
    ("domain", &[]),
    ("clock", &[]),
];

/// Which modules may use a crate, tests apart. Crates that are not listed may be used anywhere.
const CRATES: &[(&str, &[&str])] = &[
    ("anyhow", &["main", "cli", "app"]),
    ("axum", &["http", "app", "cli::bench"]),
    ("clap", &["cli"]),
    ("hyper", &["http", "cli"]),
    ("metrics", &["metrics"]),
    ("metrics_exporter_prometheus", &["metrics"]),
    ("serde", &["auth", "cli", "config", "http"]),
    ("serde_json", &["cli", "http"]),
    // Two parts of the benchmark speak to databases that are not the product's to speak to: what it
    // is compared with, and somebody else's snapshot.
    (
        "sqlx",
        &[
            "store",
            "postgres",
            "cli::bench::baseline",
            "cli::bench::condition",
        ],
    ),
    (
        "tokio",
        &[
            "app",
            "broker",
            "cli",
            "http",
            "maintenance",
            "postgres",
            "service",
            "store",
        ],
    ),
];

/// Names that say nothing of what is inside.
const EMPTY_NAMES: &[&str] = &[
    "base", "common", "core", "helper", "helpers", "misc", "shared", "types", "util", "utils",
];

/// What one file uses: paths with `crate`, `self`, `super` and imported names put in full.
#[derive(Default)]
struct Uses {
    /// The module that is being read, from the crate's root.
    module: Vec<String>,
    /// Paths from the crate's root, such as `domain::limits`; an import may end at a module.
    imported: Vec<String>,
    named: Vec<String>,
    /// Paths into crates of others, as written.
    foreign: Vec<String>,
    /// What imported names stand for.
    aliases: HashMap<String, String>,
    modules: Vec<String>,
    ignored_tests: usize,
}

impl Uses {
    fn of(module: &str, source: &str) -> Self {
        let file = syn::parse_file(source).unwrap_or_else(|error| panic!("{module}: {error}"));
        let mut uses = Self {
            module: module.split("::").map(str::to_owned).collect(),
            ..Self::default()
        };
        // The binary is a crate of its own, whose root is where the library's modules are seen.
        if ["lib", "main"].contains(&module) {
            uses.module.clear();
        }
        uses.visit_file(&file);
        uses
    }

    /// The path from the crate's root, for a path that is not of another crate.
    fn resolve(&self, path: &[String]) -> Option<String> {
        let first = path.first()?;
        let mut absolute = match first.as_str() {
            "crate" | "towpath" => vec![],
            "self" if path.len() > 1 => self.module.clone(),
            "super" => {
                let mut parent = self.module.clone();
                parent.pop();
                parent
            }
            _ => {
                let alias = self.aliases.get(first)?;
                alias.split("::").map(str::to_owned).collect()
            }
        };
        for segment in &path[1..] {
            match segment.as_str() {
                "super" => {
                    absolute.pop();
                }
                "self" => {}
                segment => absolute.push(segment.to_owned()),
            }
        }
        Some(absolute.join("::"))
    }

    fn import(&mut self, prefix: &[String], tree: &UseTree) {
        let with = |name: String| [prefix, &[name]].concat();
        let (path, name) = match tree {
            UseTree::Path(path) => {
                return self.import(&with(path.ident.to_string()), &path.tree);
            }
            UseTree::Group(group) => {
                for item in &group.items {
                    self.import(prefix, item);
                }
                return;
            }
            UseTree::Glob(_) => (prefix.to_vec(), None),
            UseTree::Name(name) if name.ident == "self" => {
                (prefix.to_vec(), prefix.last().cloned())
            }
            UseTree::Name(name) => (with(name.ident.to_string()), Some(name.ident.to_string())),
            UseTree::Rename(name) => (with(name.ident.to_string()), Some(name.rename.to_string())),
        };
        if let Some(absolute) = self.resolve(&path) {
            self.imported.push(absolute.clone());
            if let Some(name) = name {
                self.aliases.insert(name, absolute);
            }
        } else {
            self.foreign_crate(&path);
        }
    }

    fn foreign_crate(&mut self, path: &[String]) {
        // Tests may use any crate, but no more of ours than the module they are in.
        if !self.module.iter().any(|module| module == "tests") {
            self.foreign.push(path.join("::"));
        }
    }

    fn name(&mut self, path: &[String]) {
        match self.resolve(path) {
            Some(absolute) => self.named.push(absolute),
            None => self.foreign_crate(path),
        }
    }

    /// Paths in what macros and attributes are given, which is no syntax yet. What is in quotes
    /// is none.
    fn tokens(&mut self, tokens: &str) {
        let unquoted = tokens.replace("\\\"", "");
        let code: String = unquoted.split('"').step_by(2).collect();
        let joined = code.replace(" ::", "::").replace(":: ", "::");
        let is_of_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
        for word in joined.split(|c: char| !is_of_path(c)) {
            if word.contains("::") {
                let path: Vec<_> = word
                    .trim_matches(':')
                    .split("::")
                    .map(str::to_owned)
                    .collect();
                self.name(&path);
            }
        }
    }
}

impl<'ast> Visit<'ast> for Uses {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.import(&[], &item.tree);
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        let name = item.ident.to_string();
        self.modules.push(name.clone());
        self.module.push(name);
        visit::visit_item_mod(self, item);
        self.module.pop();
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.segments.len() > 1 {
            let segments = path
                .segments
                .iter()
                .map(|segment| segment.ident.to_string());
            self.name(&segments.collect::<Vec<_>>());
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        self.tokens(&item.tokens.to_string());
        visit::visit_macro(self, item);
    }

    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        if attribute.path().is_ident("ignore") {
            self.ignored_tests += 1;
        }
        if let syn::Meta::List(list) = &attribute.meta {
            self.tokens(&list.tokens.to_string());
        }
        visit::visit_attribute(self, attribute);
    }

    fn visit_visibility(&mut self, _visibility: &'ast syn::Visibility) {
        // `pub(in crate::http)` uses nothing.
    }
}

fn is_in(path: &str, module: &str) -> bool {
    path.strip_prefix(module)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// What a module of the library or the program does against the rules.
fn violations(module: &str, source: &str) -> Vec<String> {
    let uses = Uses::of(module, source);
    let mut found = vec![];
    let row = LAYERS
        .iter()
        .filter(|(layer, _)| is_in(module, layer))
        .max_by_key(|(layer, _)| layer.len());
    let Some((layer, allowed)) = row else {
        return vec![format!(
            "{module} has no row in LAYERS: say whom it may import"
        )];
    };
    let may_name =
        |path: &str| is_in(path, layer) || allowed.iter().any(|allowed| is_in(path, allowed));
    // A module may be imported for the sake of what is allowed in it: each use is looked at.
    let may_import =
        |path: &str| may_name(path) || allowed.iter().any(|allowed| is_in(allowed, path));
    let is_root_of_test = |path: &str| path.is_empty();
    let imported = uses.imported.iter().filter(|path| !may_import(path));
    let named = uses.named.iter().filter(|path| !may_name(path));
    for path in imported.chain(named).filter(|path| !is_root_of_test(path)) {
        found.push(format!(
            "{module} uses crate::{path}, which {layer} may not"
        ));
    }
    for path in &uses.foreign {
        let name = path.split("::").next().unwrap_or_default();
        let row = CRATES.iter().find(|(listed, _)| *listed == name);
        if let Some((_, users)) = row
            && !users.iter().any(|user| is_in(module, user))
        {
            found.push(format!(
                "{module} uses {path}; only {} may",
                users.join(", ")
            ));
        }
    }
    found
}

/// Every Rust file below a folder of the package.
fn files(folder: &str) -> Vec<PathBuf> {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)];
    let mut files = vec![];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    assert!(files.len() > 10, "{folder} is not where it was");
    files.sort();
    files
}

/// `src/http/rest/mod.rs` is `http::rest`.
fn module_of(file: &Path) -> String {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let module = file.strip_prefix(source).unwrap().with_extension("");
    let module = module.to_str().unwrap().replace('/', "::");
    module.strip_suffix("::mod").unwrap_or(&module).to_owned()
}

#[test]
fn every_module_imports_only_what_its_layer_may() {
    let found: Vec<_> = files("src")
        .iter()
        .flat_map(|file| violations(&module_of(file), &fs::read_to_string(file).unwrap()))
        .collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// A module, what could stand in it, and whether it may.
const EXAMPLES: &[(&str, &str, bool)] = &[
    (
        "main",
        "use towpath::{cli, config}; fn f(e: config::Error) {}",
        true,
    ),
    ("main", "use towpath::service::Service;", false),
    (
        "main",
        "use towpath::config; fn f() { config::search_path(); }",
        false,
    ),
    ("cli::bench", "use crate::broker::Broker;", false),
    ("cli", "use crate::{app, store};", false),
    ("cli", "use crate::http::rest::openapi;", true),
    ("cli", "use crate::http::rest::problem;", false),
    (
        "cli",
        "use crate::postgres; fn f() { postgres::exec_with_parent(); }",
        true,
    ),
    (
        "cli",
        "use crate::postgres; fn f() { postgres::open(); }",
        false,
    ),
    (
        "cli",
        "use crate::postgres as p; fn f() { p::open(); }",
        false,
    ),
    ("app", "use crate::cli::run;", false),
    ("http::rest::queues", "use crate::store::Store;", false),
    (
        "http::rest::queues",
        "use super::super::super::store::Store;",
        false,
    ),
    (
        "http::rest::queues",
        "fn f(store: &crate::store::Store) {}",
        false,
    ),
    (
        "http::rest::queues",
        "fn f() { format!(\"{}\", crate::store::NAME); }",
        false,
    ),
    (
        "http::rest::queues",
        "#[schema(example = crate::store::name())] struct S;",
        false,
    ),
    (
        "http::rest::queues",
        "use super::json; use crate::service::Service;",
        true,
    ),
    (
        "http::rest",
        "use crate::http::{self, Http}; fn f() { http::serve::serve(); }",
        false,
    ),
    ("http::ops", "use super::rest::queues;", false),
    (
        "http::ops",
        "use super::rest::{Json, problem::Failure};",
        true,
    ),
    ("service::queues", "use crate::http::Http;", false),
    (
        "broker::claim",
        "use super::super::service::Service;",
        false,
    ),
    (
        "broker::claim",
        "mod tests { use super::super::dues; use crate::clock; }",
        true,
    ),
    ("maintenance::space", "use crate::service::Service;", false),
    ("store::log", "use crate::clock::Clock;", false),
    ("auth::issuer", "use crate::store;", false),
    ("auth::issuer", "use axum::http::HeaderMap;", false),
    ("domain::queue", "use crate::clock::Clock;", false),
    (
        "domain::queue",
        "#[derive(serde::Serialize)] struct S;",
        false,
    ),
    (
        "domain::queue",
        "use serde::{Deserialize, Serialize};",
        false,
    ),
    (
        "domain::queue",
        "async fn f() { tokio::task::yield_now().await }",
        false,
    ),
    ("broker", "use sqlx::PgPool;", false),
    ("cli::bench::load", "use sqlx::PgPool;", false),
    ("store", "use sqlx::PgPool;", true),
    ("broker", "mod tests { use sqlx::PgPool; }", true),
    ("service", "fn f() -> anyhow::Result<()> { Ok(()) }", false),
    ("nowhere", "", false),
];

#[test]
fn the_layering_test_sees_what_it_forbids() {
    for (module, source, good) in EXAMPLES {
        let found = violations(module, source);
        assert_eq!(found.is_empty(), *good, "{module}: {source}: {found:?}");
    }
}

#[test]
fn every_file_says_what_lives_in_it() {
    for file in ["src", "tests"].iter().flat_map(|folder| files(folder)) {
        let text = fs::read_to_string(&file).unwrap();
        assert!(
            text.starts_with("//! "),
            "{} does not begin with //!",
            file.display()
        );
    }
}

#[test]
fn no_module_has_a_name_that_says_nothing() {
    let says_nothing = |name: &str| EMPTY_NAMES.contains(&name);
    for file in ["src", "tests"].iter().flat_map(|folder| files(folder)) {
        let own = file
            .strip_prefix(env!("CARGO_MANIFEST_DIR"))
            .unwrap()
            .with_extension("");
        let mut names = own.iter().map(|name| name.to_str().unwrap());
        assert!(!names.any(says_nothing), "{}", file.display());
        let inner = Uses::of("lib", &fs::read_to_string(&file).unwrap()).modules;
        assert!(
            !inner.iter().any(|name| says_nothing(name)),
            "{}",
            file.display()
        );
    }
}

#[test]
fn no_test_is_ignored() {
    for file in ["src", "tests"].iter().flat_map(|folder| files(folder)) {
        let uses = Uses::of("lib", &fs::read_to_string(&file).unwrap());
        assert_eq!(uses.ignored_tests, 0, "{}", file.display());
    }
    assert_eq!(
        Uses::of("lib", &format!("#[test] #[{}] fn f() {{}}", "ignore")).ignored_tests,
        1
    );
}
