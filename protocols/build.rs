//! Compiles the .proto files with protox: no protoc needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["src/sync/batch.proto", "src/sync/wire.proto", "src/sync/columns.proto"];
    for file in files {
        println!("cargo:rerun-if-changed={file}");
    }
    prost_build::Config::new().bytes(["."]).compile_fds(protox::compile(files, ["src/sync"])?)?;
    Ok(())
}
