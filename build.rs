//! Has the program built again when a migration is added, which the macro that embeds them misses.

fn main() {
    println!("cargo:rerun-if-changed=migrations");
}
