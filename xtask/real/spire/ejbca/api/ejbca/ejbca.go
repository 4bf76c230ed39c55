// Package ejbca has the names that SPIRE's EJBCA plugin is compiled against, and nothing behind them: a SPIRE server
// that is configured with that plugin does not start.
package ejbca

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
)

var errNotBuiltIn = errors.New("this SPIRE was built without the EJBCA client")

type (
	// Authenticator is never made.
	Authenticator interface{ authenticates() }

	// APIClient is never made.
	APIClient struct{ V1CertificateApi *V1CertificateApiService }

	// Configuration is set and never read.
	Configuration struct{ Host string }

	// MTLSAuthenticatorBuilder builds nothing.
	MTLSAuthenticatorBuilder struct{}

	// V1CertificateApiService is never reached.
	V1CertificateApiService struct{}

	// ApiEnrollPkcs10CertificateRequest is never sent.
	ApiEnrollPkcs10CertificateRequest struct{}

	// EnrollCertificateRestRequest is set and never read.
	EnrollCertificateRestRequest struct{}

	// CertificateRestResponse is never received.
	CertificateRestResponse struct{ CertificateChain []string }

	// GenericOpenAPIError is never returned.
	GenericOpenAPIError struct{}
)

func NewMTLSAuthenticatorBuilder() *MTLSAuthenticatorBuilder { return new(MTLSAuthenticatorBuilder) }

func (b *MTLSAuthenticatorBuilder) WithClientCertificate(*tls.Certificate) *MTLSAuthenticatorBuilder {
	return b
}

func (b *MTLSAuthenticatorBuilder) WithCaCertificates([]*x509.Certificate) *MTLSAuthenticatorBuilder {
	return b
}

func (*MTLSAuthenticatorBuilder) Build() (Authenticator, error) { return nil, errNotBuiltIn }

func NewConfiguration() *Configuration { return new(Configuration) }

func (*Configuration) SetAuthenticator(Authenticator) {}

func NewAPIClient(*Configuration) (*APIClient, error) { return nil, errNotBuiltIn }

func (*V1CertificateApiService) EnrollPkcs10Certificate(context.Context) ApiEnrollPkcs10CertificateRequest {
	return ApiEnrollPkcs10CertificateRequest{}
}

func (request ApiEnrollPkcs10CertificateRequest) EnrollCertificateRestRequest(EnrollCertificateRestRequest) ApiEnrollPkcs10CertificateRequest {
	return request
}

func (ApiEnrollPkcs10CertificateRequest) Execute() (*CertificateRestResponse, *http.Response, error) {
	return nil, nil, errNotBuiltIn
}

func NewEnrollCertificateRestRequest() *EnrollCertificateRestRequest {
	return new(EnrollCertificateRestRequest)
}

func (*EnrollCertificateRestRequest) SetAccountBindingId(string)         {}
func (*EnrollCertificateRestRequest) SetCertificateAuthorityName(string) {}
func (*EnrollCertificateRestRequest) SetCertificateProfileName(string)   {}
func (*EnrollCertificateRestRequest) SetCertificateRequest(string)       {}
func (*EnrollCertificateRestRequest) SetEndEntityProfileName(string)     {}
func (*EnrollCertificateRestRequest) SetIncludeChain(bool)               {}
func (*EnrollCertificateRestRequest) SetPassword(string)                 {}
func (*EnrollCertificateRestRequest) SetUsername(string)                 {}

func (*CertificateRestResponse) GetCertificate() string    { return "" }
func (*CertificateRestResponse) GetResponseFormat() string { return "" }

func (*GenericOpenAPIError) Body() []byte  { return nil }
func (*GenericOpenAPIError) Error() string { return errNotBuiltIn.Error() }
