//! Finds PostgreSQL's server programs on this machine. Starts nothing but `postgres --version`.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::Error;

/// The oldest major version the statements are written for.
pub(super) const OLDEST_MAJOR: u32 = 15;

/// `postgres --version` only prints; a program that hangs is not PostgreSQL.
const VERSION_LIMIT: Duration = Duration::from_secs(10);

/// Where packages put versions side by side: the folder, and what comes before the version in the
/// names inside it.
const VERSIONED: [(&str, &str); 7] = [
    ("usr/lib/postgresql", ""),
    ("usr", "pgsql-"),
    ("opt/homebrew/opt", "postgresql@"),
    ("usr/local/opt", "postgresql@"),
    ("home/linuxbrew/.linuxbrew/opt", "postgresql@"),
    ("usr/libexec", "postgresql"),
    ("Applications/Postgres.app/Contents/Versions", ""),
];

/// A folder with `postgres` and `initdb` of one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Installation {
    pub(super) bin_dir: PathBuf,
    pub(super) major: u32,
}

/// Where to look.
#[derive(Debug, Clone, Copy)]
pub(super) struct Places<'a> {
    /// When set, the only place.
    pub(super) bin_dir: Option<&'a Path>,
    pub(super) search_path: Option<&'a OsStr>,
    /// Above the packages' folders; `/` except in tests.
    pub(super) root: &'a Path,
    /// Holds `pg-dist/*/bin`, for programs that were unpacked rather than installed.
    pub(super) data_dir: &'a Path,
}

/// The installation to use: for the cluster at `data` of that major version the same one, for a new
/// cluster the highest.
///
/// # Errors
/// [`Error::BinariesMissing`], or [`Error::WrongMajor`] when none fits the cluster.
pub(super) async fn find(
    places: Places<'_>,
    cluster: Option<(&Path, u32)>,
) -> Result<Installation, Error> {
    let dirs = match places.bin_dir {
        Some(dir) if holds_server(dir) => vec![dir.to_path_buf()],
        Some(dir) => {
            return Err(Error::BinariesMissing {
                why: format!(
                    "TOWPATH_DATABASE_PG_BIN is {}, which does not hold `postgres` and `initdb`",
                    dir.display()
                ),
            });
        }
        None => candidates(places),
    };
    let mut found = Vec::new();
    for bin_dir in dirs {
        if let Some(major) = major_of(&bin_dir).await {
            found.push(Installation { bin_dir, major });
        }
    }
    choose(found, cluster)
}

fn choose(found: Vec<Installation>, cluster: Option<(&Path, u32)>) -> Result<Installation, Error> {
    let majors: BTreeSet<u32> = found.iter().map(|found| found.major).collect();
    let majors: Vec<String> = majors.iter().map(u32::to_string).collect();
    let majors = majors.join(", ");
    let none = Error::BinariesMissing {
        why: match majors.as_str() {
            "" => "looked on PATH and where packages put it".to_owned(),
            majors => format!("found only {majors}"),
        },
    };
    match cluster {
        Some(_) if found.is_empty() => Err(none),
        Some((data, cluster)) => found
            .into_iter()
            .find(|installation| installation.major == cluster)
            .ok_or_else(|| Error::WrongMajor {
                data: data.to_path_buf(),
                cluster,
                found: majors,
            }),
        // Reversed, because `max_by_key` keeps the last of equals and earlier places go first.
        None => found
            .into_iter()
            .rev()
            .filter(|installation| installation.major >= OLDEST_MAJOR)
            .max_by_key(|installation| installation.major)
            .ok_or(none),
    }
}

fn candidates(places: Places<'_>) -> Vec<PathBuf> {
    let mut dirs: Vec<PathBuf> = Vec::new();
    for dir in places.search_path.iter().flat_map(std::env::split_paths) {
        // The server finds its libraries relative to where it really is.
        let real = fs::canonicalize(dir.join("postgres"));
        if let Some(real) = real.ok().as_deref().and_then(Path::parent) {
            dirs.push(real.to_path_buf());
        }
    }
    for (folder, prefix) in VERSIONED {
        dirs.extend(bin_dirs_in(&places.root.join(folder), prefix));
    }
    dirs.extend(bin_dirs_in(&places.data_dir.join("pg-dist"), ""));
    let mut distinct = Vec::new();
    for dir in dirs {
        if holds_server(&dir) && !distinct.contains(&dir) {
            distinct.push(dir);
        }
    }
    distinct
}

fn bin_dirs_in(folder: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .flat_map(|entry| [entry.path().join("bin"), entry.path()])
        .filter_map(|dir| fs::canonicalize(dir).ok())
        .collect()
}

fn holds_server(dir: &Path) -> bool {
    dir.join("postgres").is_file() && dir.join("initdb").is_file()
}

async fn major_of(bin_dir: &Path) -> Option<u32> {
    let output = tokio::process::Command::new(bin_dir.join("postgres"))
        .arg("--version")
        .env_clear()
        .kill_on_drop(true)
        .output();
    match tokio::time::timeout(VERSION_LIMIT, output).await {
        Ok(Ok(output)) => parse_major(&String::from_utf8_lossy(&output.stdout)),
        Ok(Err(_)) | Err(_) => None,
    }
}

/// From `postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)`, `… 19beta1`.
fn parse_major(version: &str) -> Option<u32> {
    let (_, number) = version.split_once("(PostgreSQL) ")?;
    let digits = number.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn install(dir: &Path, version: &str) {
        fs::create_dir_all(dir).unwrap();
        for program in ["postgres", "initdb"] {
            let path = dir.join(program);
            let script = format!("#!/bin/sh\necho 'postgres (PostgreSQL) {version}'\n");
            fs::write(&path, script).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
    }

    fn places(root: &Path) -> Places<'_> {
        Places {
            bin_dir: None,
            search_path: None,
            root,
            data_dir: root,
        }
    }

    #[test]
    fn versions_are_read_from_releases_packages_and_betas() {
        assert_eq!(parse_major("postgres (PostgreSQL) 15.14\n"), Some(15));
        assert_eq!(
            parse_major("postgres (PostgreSQL) 18.1 (Debian 18.1-1)"),
            Some(18)
        );
        assert_eq!(parse_major("postgres (PostgreSQL) 19beta1"), Some(19));
        assert_eq!(parse_major("something else"), None);
    }

    #[tokio::test]
    async fn a_new_cluster_gets_the_highest_version_and_an_old_one_its_own() {
        let root = tempfile::tempdir().unwrap();
        install(&root.path().join("usr/lib/postgresql/15/bin"), "15.3");
        install(&root.path().join("usr/pgsql-17/bin"), "17.0");
        install(&root.path().join("pg-dist/16.1/bin"), "16.1");

        let newest = find(places(root.path()), None).await.unwrap();
        assert_eq!(newest.major, 17);
        let data = Path::new("/data");
        let same = find(places(root.path()), Some((data, 15))).await.unwrap();
        assert!(same.bin_dir.ends_with("usr/lib/postgresql/15/bin"));
        let error = find(places(root.path()), Some((data, 18)))
            .await
            .unwrap_err();
        assert!(error.environment_missing());
        insta::assert_snapshot!(error, @"/data is a PostgreSQL 18 cluster, but only PostgreSQL 15, 16, 17 is installed: install PostgreSQL 18, or set DATABASE_URL");
    }

    #[tokio::test]
    async fn programs_on_the_path_are_found_behind_their_links() {
        let root = tempfile::tempdir().unwrap();
        let real = root.path().join("versions/16/bin");
        install(&real, "16.1");
        let bin = root.path().join("bin");
        fs::create_dir(&bin).unwrap();
        std::os::unix::fs::symlink(real.join("postgres"), bin.join("postgres")).unwrap();

        let places = Places {
            search_path: Some(bin.as_os_str()),
            ..places(root.path())
        };
        let found = find(places, None).await.unwrap();
        assert_eq!(found.bin_dir, fs::canonicalize(real).unwrap());
    }

    #[tokio::test]
    async fn missing_or_old_programs_say_in_one_sentence_what_to_install() {
        let root = tempfile::tempdir().unwrap();
        let error = find(places(root.path()), None).await.unwrap_err();
        assert!(error.environment_missing());
        insta::assert_snapshot!(error, @"no PostgreSQL >= 15 to run (looked on PATH and where packages put it): install it with ./docker/install-postgres.sh (or `apt-get install -y postgresql`, `dnf install -y postgresql-server`, `apk add postgresql`, `pacman -S postgresql`, `brew install postgresql@18`), or set DATABASE_URL");
        install(&root.path().join("usr/lib/postgresql/13/bin"), "13.9");
        let error = find(places(root.path()), None).await.unwrap_err();
        assert!(error.to_string().contains("(found only 13)"), "{error}");
        let empty = Places {
            bin_dir: Some(root.path()),
            ..places(root.path())
        };
        let error = find(empty, None).await.unwrap_err();
        assert!(
            error.to_string().contains("TOWPATH_DATABASE_PG_BIN"),
            "{error}"
        );
    }
}
