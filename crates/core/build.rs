//! Compiles the variadic `fcntl` of the private copy: stable Rust cannot define variadic functions.

fn main() {
    println!("cargo::rerun-if-changed=src/sqlite/private/shim.c");
    #[cfg(feature = "private-copy")]
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
        cc::Build::new()
            .file("src/sqlite/private/shim.c")
            .warnings(true)
            .compile("turnwise_private");
    }
}
