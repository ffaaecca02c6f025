//! The first lines that a new user reads: they work as pasted.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;

use super::listen::reachable;

/// Prints where the server is, and a message's whole life as lines of curl.
pub(super) fn print(
    out: &mut impl Write,
    address: SocketAddr,
    header_file: &Path,
) -> std::io::Result<()> {
    let url = format!("http://{}", reachable(address));
    writeln!(
        out,
        "Towpath serves {url}  (OpenAPI: {url}/v1/openapi.json)"
    )?;
    write!(out, "{}", lines(&url, header_file))?;
    out.flush()
}

fn lines(url: &str, header_file: &Path) -> String {
    let header_file = header_file.display().to_string().replace('\'', r"'\''");
    format!(
        r#"
Paste these into another terminal, with the administrator's token from a file: create a queue, send, receive, delete.

  AUTH=@'{header_file}'; JSON='Content-Type: application/json'
  curl -sSw '\n' -X PUT {url}/v1/queues/demo -H "$AUTH"
  curl -sSw '\n' {url}/v1/queues/demo/messages -H "$AUTH" -H "$JSON" -d '{{"messages":[{{"body":"hello"}}]}}'
  RECEIVED=$(curl -sS -X POST {url}/v1/queues/demo/messages/receive -H "$AUTH"); echo "$RECEIVED"
  RECEIPT=$(echo "$RECEIVED" | sed 's/.*"receipt_handle":"\([^"]*\)".*/\1/')
  curl -sSw '\n' {url}/v1/queues/demo/messages/delete -H "$AUTH" -H "$JSON" -d '{{"messages":[{{"receipt_handle":"'"$RECEIPT"'"}}]}}'

"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_name_the_tokens_file_and_no_program_gets_the_token_as_an_argument() {
        let lines = lines("http://127.0.0.1:9324", Path::new("/it's/admin.header"));
        assert!(
            lines.contains(r"  AUTH=@'/it'\''s/admin.header'; "),
            "{lines}"
        );
        assert!(!lines.contains("Bearer"), "{lines}");
    }
}
