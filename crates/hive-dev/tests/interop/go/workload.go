package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"sort"

	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

// What this process is, kept current by go-spiffe's own watchers.
type workload struct {
	client *workloadapi.Client
	x509   *workloadapi.X509Source
	jwt    *workloadapi.JWTSource
}

func (w *workload) attach(ctx context.Context, given order) (answer, error) {
	client, err := workloadapi.New(ctx, workloadapi.WithAddr(given.Address))
	if err != nil {
		return nil, err
	}
	x509, err := workloadapi.NewX509Source(ctx, workloadapi.WithClient(client))
	if err != nil {
		return nil, err
	}
	jwt, err := workloadapi.NewJWTSource(ctx, workloadapi.WithClient(client))
	if err != nil {
		return nil, err
	}
	w.client, w.x509, w.jwt = client, x509, jwt
	return w.currentX509(ctx, given)
}

// The SVID and the bundle of this moment, once the one was verified with the other.
func (w *workload) currentX509(context.Context, order) (answer, error) {
	svid, err := w.x509.GetX509SVID()
	if err != nil {
		return nil, err
	}
	verified, _, err := x509svid.Verify(svid.Certificates, w.x509)
	if err != nil {
		return nil, err
	}
	bundle, err := w.x509.GetX509BundleForTrustDomain(verified.TrustDomain())
	if err != nil {
		return nil, err
	}
	authorities := []string{}
	for _, authority := range bundle.X509Authorities() {
		digest := sha256.Sum256(authority.Raw)
		authorities = append(authorities, hex.EncodeToString(digest[:]))
	}
	sort.Strings(authorities)
	serial := svid.Certificates[0].SerialNumber.Text(16)
	return answer{"spiffe_id": verified.String(), "serial": serial, "authorities": authorities}, nil
}

func (w *workload) currentKeys(context.Context, order) (answer, error) {
	svid, err := w.x509.GetX509SVID()
	if err != nil {
		return nil, err
	}
	bundle, err := w.jwt.GetJWTBundleForTrustDomain(svid.ID.TrustDomain())
	if err != nil {
		return nil, err
	}
	keys := []string{}
	for key := range bundle.JWTAuthorities() {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	return answer{"keys": keys}, nil
}

func (w *workload) fetch(ctx context.Context, given order) (answer, error) {
	svid, err := w.jwt.FetchJWTSVID(ctx, jwtsvid.Params{Audience: given.Audience})
	if err != nil {
		return nil, err
	}
	return answer{"token": svid.Marshal(), "spiffe_id": svid.ID.String()}, nil
}

// By the bundle that is held here.
func (w *workload) verify(_ context.Context, given order) (answer, error) {
	svid, err := jwtsvid.ParseAndValidate(given.Token, w.jwt, []string{given.Audience})
	if err != nil {
		return nil, err
	}
	return answer{"spiffe_id": svid.ID.String()}, nil
}

// By the Workload API.
func (w *workload) validate(ctx context.Context, given order) (answer, error) {
	svid, err := w.client.ValidateJWTSVID(ctx, given.Token, given.Audience)
	if err != nil {
		return nil, err
	}
	return answer{"spiffe_id": svid.ID.String()}, nil
}
