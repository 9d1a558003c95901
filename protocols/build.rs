//! Compiles the .proto files with protox: no protoc needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["src/sync/batch.proto", "src/sync/wire.proto", "src/sync/columns.proto"];
    for file in files {
        println!("cargo:rerun-if-changed={file}");
    }
    // Bytes are shared, not copied, wherever whole batches and certificates travel. The columns
    // alone are `Vec<u8>`: they are the codec's scratch space, kept from batch to batch.
    let shared = ["Batch", "Boot", "SentBatch", "SyncRequest", "JoinRequest", "JoinAnswer"];
    prost_build::Config::new()
        .bytes(shared.map(|message| format!(".forebay.v1.{message}")))
        .compile_fds(protox::compile(files, ["src/sync"])?)?;
    Ok(())
}
