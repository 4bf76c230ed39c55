//! The algorithms of JWS that JWT-SVIDs use, by the names that tokens and keys give them (RFC 7518).

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED,
    EcdsaVerificationAlgorithm, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384,
    RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384,
    RSA_PSS_2048_8192_SHA512, RsaParameters,
};

/// A curve, and the one algorithm that is used with it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Curve {
    pub(crate) algorithm: &'static str,
    pub(crate) verification: &'static EcdsaVerificationAlgorithm,
    coordinate_bytes: usize,
}

/// The curve of this name; none for the many that JWT-SVIDs do not use.
pub(crate) fn curve(name: &str) -> Option<Curve> {
    let (algorithm, verification, coordinate_bytes) = match name {
        "P-256" => ("ES256", &ECDSA_P256_SHA256_FIXED, 32),
        "P-384" => ("ES384", &ECDSA_P384_SHA384_FIXED, 48),
        "P-521" => ("ES512", &ECDSA_P521_SHA512_FIXED, 66),
        _ => return None,
    };
    Some(Curve { algorithm, verification, coordinate_bytes })
}

impl Curve {
    /// An uncompressed point: 4, x, y (SEC 1, section 2.3.3); none if a coordinate has another width.
    pub(crate) fn point(&self, x: &[u8], y: &[u8]) -> Option<Vec<u8>> {
        let fits = x.len() == self.coordinate_bytes && y.len() == self.coordinate_bytes;
        fits.then(|| [&[4], x, y].concat())
    }
}

/// What an algorithm for RSA keys is verified with.
pub(crate) fn rsa(algorithm: &str) -> Option<&'static RsaParameters> {
    Some(match algorithm {
        "PS256" => &RSA_PSS_2048_8192_SHA256,
        "PS384" => &RSA_PSS_2048_8192_SHA384,
        "PS512" => &RSA_PSS_2048_8192_SHA512,
        "RS256" => &RSA_PKCS1_2048_8192_SHA256,
        "RS384" => &RSA_PKCS1_2048_8192_SHA384,
        "RS512" => &RSA_PKCS1_2048_8192_SHA512,
        _ => return None,
    })
}
