//! Generates the gRPC code with protox: a fresh machine needs no protoc.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let protos = ["proto/orchestrator.proto", "proto/service_registry.proto"];
    let descriptors = protox::compile(protos, ["proto"])?;
    // Served by gRPC server reflection, so with everything that it refers to.
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).open_file("service_registry.proto")?;
    let directory = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    let registry = directory.join("service_registry.bin");
    std::fs::write(registry, compiler.encode_file_descriptor_set())?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    for proto in protos {
        println!("cargo:rerun-if-changed={proto}");
    }
    Ok(())
}
