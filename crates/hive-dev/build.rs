//! Generates the gRPC code with protox: a fresh machine needs no protoc.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let proto = "proto/workload.proto";
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).open_file("workload.proto")?;
    let directory = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    // Served by gRPC server reflection, so with everything that it refers to.
    let descriptors = compiler.encode_file_descriptor_set();
    std::fs::write(directory.join("workload.bin"), descriptors)?;
    tonic_prost_build::configure()
        .build_client(true)
        // These carry secrets; their `Debug` is written by hand in `wire.rs`.
        .skip_debug(["X509SVID", "JWTSVID", "ValidateJWTSVIDRequest"])
        .compile_fds(protox::compile([proto], ["proto"])?)?;
    println!("cargo:rerun-if-changed={proto}");
    Ok(())
}
