# Short names for what is typed often. Everything that must hold: .ci/run

# Start a server with nothing configured
run *arguments:
    cargo run --release -- serve {{arguments}}

# All tests, or those whose names hold a word
test *words:
    cargo test {{words}}

# Format and lints, as the CI sees them
lint:
    cargo fmt --check
    cargo clippy --all-targets --locked -- -D warnings

# The crate's documentation, and the generated files under docs/ and openapi/
docs: openapi
    RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --locked

# Write openapi/openapi.json and docs/errors.md anew
openapi:
    UPDATE_DOCS=1 cargo test is_current

# Measure a server that runs
bench *arguments:
    cargo run --release -- bench {{arguments}}
