package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffegrpc/grpccredentials"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const method = "/bench.Echo/Say"

type workload struct {
	x509 *workloadapi.X509Source
	jwt  *workloadapi.JWTSource
}

func attach(endpoint string) (*workload, error) {
	ctx := context.Background()
	options := workloadapi.WithClientOptions(workloadapi.WithAddr(endpoint))
	x509, err := workloadapi.NewX509Source(ctx, options)
	if err != nil {
		return nil, err
	}
	jwt, err := workloadapi.NewJWTSource(ctx, options)
	if err != nil {
		return nil, err
	}
	return &workload{x509: x509, jwt: jwt}, nil
}

func serve(endpoint, client string, orders *bufio.Scanner) error {
	if !orders.Scan() {
		return errors.New("it was not told to attach")
	}
	workload, err := attach(endpoint)
	if err != nil {
		return err
	}
	allowed, err := spiffeid.FromString(client)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	credentials := grpccredentials.MTLSServerCredentials(workload.x509, workload.x509, tlsconfig.AuthorizeAny())
	authenticate := authenticator{workload.jwt, []string{os.Getenv("HIVE_BENCH_AUDIENCE")}, allowed}
	server := grpc.NewServer(grpc.Creds(credentials), grpc.UnaryInterceptor(authenticate.intercept))
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: "bench.Echo",
		HandlerType: (*any)(nil),
		Methods:     []grpc.MethodDesc{{MethodName: "Say", Handler: echo}},
	}, nil)
	fmt.Println(listener.Addr())
	go func() {
		// It ends with its input.
		for orders.Scan() {
		}
		server.Stop()
	}()
	return server.Serve(listener)
}

func echo(service any, ctx context.Context, decode func(any) error, intercept grpc.UnaryServerInterceptor) (any, error) {
	message := &wrapperspb.BytesValue{}
	if err := decode(message); err != nil {
		return nil, err
	}
	info := &grpc.UnaryServerInfo{Server: service, FullMethod: method}
	return intercept(ctx, message, info, func(_ context.Context, message any) (any, error) { return message, nil })
}

// Lets one client through, which must show an X.509-SVID and a JWT-SVID that agree.
type authenticator struct {
	bundles  *workloadapi.JWTSource
	audience []string
	allowed  spiffeid.ID
}

func (a *authenticator) intercept(ctx context.Context, message any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	peer, known := grpccredentials.PeerIDFromContext(ctx)
	values := metadata.ValueFromIncomingContext(ctx, "authorization")
	if !known || len(values) != 1 {
		return nil, status.Error(codes.Unauthenticated, "one X.509-SVID and one JWT-SVID are needed")
	}
	token, bearer := strings.CutPrefix(values[0], "Bearer ")
	if !bearer {
		return nil, status.Error(codes.Unauthenticated, "the authorization is no bearer token")
	}
	svid, err := jwtsvid.ParseAndValidate(token, a.bundles, a.audience)
	if err != nil || svid.ID != peer {
		return nil, status.Error(codes.Unauthenticated, "the JWT-SVID is not good")
	}
	if svid.ID != a.allowed || info.FullMethod != method {
		return nil, status.Error(codes.PermissionDenied, "the caller may not do that")
	}
	return next(ctx, message)
}
