//! Prometheus' text format, for series that the exporter does not keep.

use std::fmt::{Display, Write as _};

use super::families;

/// The two lines above a metric's samples.
pub(super) fn head(text: &mut String, name: &str) {
    let family = families::of(name);
    let kind = family.kind.name();
    let _infallible = write!(
        text,
        "# HELP {name} {}\n# TYPE {name} {kind}\n",
        family.help
    );
}

/// One sample. Values of labels here are names of queues and tables and words of ours: nothing in them has
/// to be escaped.
pub(super) fn sample(text: &mut String, name: &str, labels: &[(&str, &str)], value: impl Display) {
    text.push_str(name);
    for (index, (label, of_label)) in labels.iter().enumerate() {
        let open = if index == 0 { '{' } else { ',' };
        let _infallible = write!(text, "{open}{label}=\"{of_label}\"");
    }
    let close = if labels.is_empty() { "" } else { "}" };
    let _infallible = writeln!(text, "{close} {value}");
}
