// SPIRE as the conformance tests run it. `cargo xtask real` builds it.
module neural-hive/real/spire

go 1.26.6

require github.com/spiffe/spire v1.15.3

// A client of one certificate product, for a plugin that no test configures. It is not to be had everywhere.
replace github.com/Keyfactor/ejbca-go-client-sdk => ./ejbca
