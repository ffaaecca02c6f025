//! `towpath completion`, as shells take it.

use std::process::Command;

use super::{assert_exit, stdout, towpath};

#[test]
fn a_shell_completes_commands_by_what_is_printed() {
    let output = towpath(&["completion", "bash"], &[]);
    assert_exit(&output, 0);
    let script = format!(
        "{}\nCOMP_WORDS=(towpath queue pu); COMP_CWORD=2; _towpath towpath pu queue; echo \"${{COMPREPLY[@]}}\"",
        stdout(&output)
    );
    let completed = Command::new("bash").args(["-c", &script]).output().unwrap();
    assert_eq!(stdout(&completed), "purge\n");
    for shell in ["zsh", "fish"] {
        let output = towpath(&["completion", shell], &[]);
        assert_exit(&output, 0);
        assert!(stdout(&output).contains("purge"));
    }
    assert_exit(&towpath(&["completion", "csh"], &[]), 2);
}
