//! Generates the gRPC code with protox: a fresh machine needs no protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let proto = "proto/workload.proto";
    let descriptors = protox::compile([proto], ["proto"])?;
    tonic_prost_build::configure()
        .build_client(true)
        // These carry secrets; their `Debug` is written by hand in `wire.rs`.
        .skip_debug(["X509SVID", "JWTSVID", "ValidateJWTSVIDRequest"])
        .compile_fds(descriptors)?;
    println!("cargo:rerun-if-changed={proto}");
    Ok(())
}
