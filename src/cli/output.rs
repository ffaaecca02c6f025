//! What commands print: tables for people, JSON for programs, and how quantities are written.

use std::io::{ErrorKind, IsTerminal as _, Write};
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use comfy_table::{CellAlignment, Table, presets};
use serde_json::Value;

use crate::config;

/// Most characters of a text of strangers in a table.
const MAX_CELL: usize = 60;

/// Most characters of a body in a table, where it stands last.
const MAX_LAST_CELL: usize = 500;

/// The form of the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people
    Table,
    /// One JSON document
    Json,
    /// A JSON object per line
    Jsonl,
    /// Names or ids alone, one per line
    Name,
}

/// How the result is to be printed.
#[derive(Args, Clone, Copy)]
pub(super) struct Form {
    #[arg(
        short,
        long = "output",
        value_name = "FORM",
        value_enum,
        hide_possible_values = true,
        help = "table, json, jsonl or name [default: table on a terminal, else jsonl]"
    )]
    output: Option<Format>,
}

impl Form {
    pub(super) fn format(self) -> Format {
        let is_terminal = std::io::stdout().is_terminal();
        self.output.unwrap_or(if is_terminal {
            Format::Table
        } else {
            Format::Jsonl
        })
    }
}

/// Nobody reads the result any more: a pipe was closed. That is no failure.
#[derive(Debug, thiserror::Error)]
#[error("the output was closed")]
pub(super) struct Closed;

/// Writes to the result and hands it over at once.
///
/// # Errors
/// [`Closed`]; or what cannot be written.
pub(super) fn print(out: &mut dyn Write, text: &str) -> anyhow::Result<()> {
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    match written {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Closed.into()),
        written => written.context("cannot write the result"),
    }
}

/// Says something on the side that is no part of the result.
pub(super) fn note(text: &str) {
    // Nothing is left to say it to where it is closed.
    let _unwritten = writeln!(std::io::stderr(), "{text}");
}

/// Whether a person sees what is said on the side.
pub(super) fn is_watched() -> bool {
    std::io::stderr().is_terminal()
}

/// A column of a table.
pub(super) struct Column {
    pub(super) title: &'static str,
    pub(super) cell: fn(&Value) -> String,
}

/// How items of one kind are shown.
pub(super) struct Listing {
    pub(super) columns: &'static [Column],
    /// The member that names an item.
    pub(super) name: &'static str,
    /// What is said to a person when there is none.
    pub(super) none: &'static str,
}

impl Listing {
    /// Prints all items.
    ///
    /// # Errors
    /// As [`print`].
    pub(super) fn print(
        &self,
        out: &mut dyn Write,
        format: Format,
        items: &[Value],
    ) -> anyhow::Result<()> {
        match format {
            Format::Table if items.is_empty() => {
                note(self.none);
                Ok(())
            }
            Format::Table => print(out, &self.table(items)),
            Format::Json => print(out, &format!("{}\n", serde_json::to_string_pretty(items)?)),
            Format::Jsonl | Format::Name => {
                let lines = items.iter().map(|item| self.line(format, item));
                print(out, &lines.collect::<String>())
            }
        }
    }

    /// Prints one thing with all that it has.
    ///
    /// # Errors
    /// As [`print`].
    pub(super) fn one(
        &self,
        out: &mut dyn Write,
        format: Format,
        item: &Value,
    ) -> anyhow::Result<()> {
        match format {
            Format::Table => print(out, &fields(item)),
            Format::Json => print(out, &format!("{}\n", serde_json::to_string_pretty(item)?)),
            Format::Jsonl | Format::Name => print(out, &self.line(format, item)),
        }
    }

    fn line(&self, format: Format, item: &Value) -> String {
        match format {
            Format::Name => format!("{}\n", item[self.name].as_str().unwrap_or_default()),
            Format::Table | Format::Json | Format::Jsonl => format!("{item}\n"),
        }
    }

    /// A table of items, without lines, so that it can be read by columns.
    pub(super) fn table(&self, items: &[Value]) -> String {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(self.columns.iter().map(|column| column.title));
        for item in items {
            table.add_row(self.columns.iter().map(|column| (column.cell)(item)));
        }
        for (index, column) in table.column_iter_mut().enumerate() {
            let is_number = |cell: &String| cell.bytes().all(|byte| byte.is_ascii_digit());
            let mut cells = items.iter().map(self.columns[index].cell);
            let mut cells = cells.by_ref().filter(|cell| cell != ABSENT).peekable();
            if cells.peek().is_some() && cells.all(|cell| is_number(&cell)) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        framed(&table, true)
    }
}

/// What is shown where there is nothing.
const ABSENT: &str = "-";

/// A thing's members, one per line.
fn fields(item: &Value) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    for (name, value) in item.as_object().into_iter().flatten() {
        let shown = match value.as_u64() {
            Some(seconds) if name.ends_with("_seconds") => duration(seconds),
            _ if name.ends_with("_at") => time(value),
            _ => text(value),
        };
        table.add_row([name.trim_end_matches("_seconds"), &shown]);
    }
    framed(&table, false)
}

/// A table's text without the space that fills its lines.
fn framed(table: &Table, has_header: bool) -> String {
    let mut text = String::new();
    for (index, line) in table.lines().enumerate() {
        let line = line.strip_prefix(' ').unwrap_or(&line).trim_end();
        if has_header && index == 0 {
            text.push_str(&bold(line));
        } else {
            text.push_str(line);
        }
        text.push('\n');
    }
    text
}

/// Emphasized where somebody sees it who has not forbidden it.
fn bold(text: &str) -> String {
    if std::io::stdout().is_terminal() && !config::is_colour_forbidden() {
        format!("\u{1b}[1m{text}\u{1b}[0m")
    } else {
        text.to_owned()
    }
}

/// Prints things one by one as they come.
pub(super) struct Stream<'a> {
    out: &'a mut dyn Write,
    format: Format,
    listing: &'static Listing,
    printed: u64,
}

impl<'a> Stream<'a> {
    pub(super) fn new(out: &'a mut dyn Write, format: Format, listing: &'static Listing) -> Self {
        Self {
            out,
            format,
            listing,
            printed: 0,
        }
    }

    /// Prints what came, and hands it over before this ends.
    ///
    /// # Errors
    /// As [`print`].
    pub(super) fn push(&mut self, items: &[Value]) -> anyhow::Result<()> {
        let mut whole = String::new();
        for item in items {
            match self.format {
                Format::Table => {
                    let cells = self.listing.columns.iter();
                    let cells: Vec<_> = cells.map(|column| (column.cell)(item)).collect();
                    whole.push_str(cells.join("  ").trim_end());
                    whole.push('\n');
                }
                Format::Json => {
                    whole.push_str(if self.printed == 0 { "[\n" } else { ",\n" });
                    whole.push_str(&item.to_string());
                }
                Format::Jsonl | Format::Name => {
                    whole.push_str(&self.listing.line(self.format, item));
                }
            }
            self.printed += 1;
        }
        print(self.out, &whole)
    }

    pub(super) fn printed(&self) -> u64 {
        self.printed
    }

    /// Ends the document.
    ///
    /// # Errors
    /// As [`print`].
    pub(super) fn end(self) -> anyhow::Result<()> {
        match (self.format, self.printed) {
            (Format::Json, 0) => print(self.out, "[]\n"),
            (Format::Json, _) => print(self.out, "\n]\n"),
            (Format::Table, 0) => {
                note(self.listing.none);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// A value in a table: on one line, shortened, and with nothing in it that a terminal obeys.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::Null => ABSENT.to_owned(),
        Value::String(text) => plain(text),
        value => plain(&value.to_string()),
    }
}

/// A stranger's text, shortened, with nothing in it that a terminal obeys.
pub(super) fn plain(text: &str) -> String {
    shortened(text, MAX_CELL)
}

/// The same for what stands last in its line, and may be longer.
pub(super) fn plain_last(text: &str) -> String {
    shortened(text, MAX_LAST_CELL)
}

fn shortened(text: &str, most: usize) -> String {
    let mut plain = String::new();
    for (count, character) in text.chars().enumerate() {
        if count == most {
            plain.push('…');
            break;
        }
        if character.is_control() || is_direction(character) {
            plain.extend(character.escape_default());
        } else {
            plain.push(character);
        }
    }
    plain
}

/// Characters that turn the direction of what follows, and so can hide what a line says.
fn is_direction(character: char) -> bool {
    matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A time in a table: to the second.
pub(super) fn time(value: &Value) -> String {
    let Some(given) = value.as_str() else {
        return ABSENT.to_owned();
    };
    let to_the_second = given.split(['.', 'Z']).next().unwrap_or(given);
    format!("{}Z", plain(&to_the_second.replace('T', " ")))
}

/// Seconds in a table.
pub(super) fn seconds_of(value: &Value) -> String {
    value.as_u64().map_or_else(|| ABSENT.to_owned(), duration)
}

/// A length of time as the command line takes it: `30s`, `1h30m`, `4d`.
pub(super) fn duration(seconds: u64) -> String {
    let mut text = String::new();
    let mut rest = seconds;
    for (unit, length) in [("d", 86400), ("h", 3600), ("m", 60), ("s", 1)] {
        if rest >= length {
            text.push_str(&format!("{}{unit}", rest / length));
            rest %= length;
        }
    }
    if text.is_empty() {
        text.push_str("0s");
    }
    text
}

/// Whole seconds from the command line.
///
/// # Errors
/// The rule that it breaks.
pub(super) fn seconds(text: &str) -> Result<u64, String> {
    let form = "such as 30s, 5m or 4d";
    let duration: Duration =
        humantime::parse_duration(text).map_err(|error| format!("{error}; {form}"))?;
    if duration.subsec_nanos() != 0 {
        return Err(format!("must be whole seconds, {form}"));
    }
    Ok(duration.as_secs())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_length_of_time_is_read_as_it_is_written() {
        for (seconds_long, written) in [
            (0, "0s"),
            (30, "30s"),
            (90, "1m30s"),
            (300, "5m"),
            (5400, "1h30m"),
            (345_600, "4d"),
            (90_061, "1d1h1m1s"),
        ] {
            assert_eq!(duration(seconds_long), written);
            assert_eq!(seconds(written), Ok(seconds_long));
        }
        for wrong in ["", "30", "1.5s", "500ms", "-1s", "s"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_strangers_text_cannot_drive_the_terminal() {
        assert_eq!(plain("a\u{1b}[2Jb\nc"), "a\\u{1b}[2Jb\\nc");
        assert_eq!(plain("\u{202e}x\u{9b}"), "\\u{202e}x\\u{9b}");
        assert_eq!(plain(&"x".repeat(61)), format!("{}…", "x".repeat(60)));
        assert_eq!(plain("é 世界"), "é 世界");
    }

    #[test]
    fn a_time_is_shown_to_the_second() {
        let shown = time(&json!("2026-11-20T12:00:01.5Z"));
        assert_eq!(shown, "2026-11-20 12:00:01Z");
        assert_eq!(time(&Value::Null), "-");
    }
}
