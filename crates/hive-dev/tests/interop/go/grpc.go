package main

import (
	"context"
	"net"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffegrpc/grpccredentials"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const method = "/interop.Echo/Say"

// Serves gRPC until the process ends: sends a message back, behind the SPIFFE ID that connection and token agree on.
func (w *workload) serveGRPC(_ context.Context, given order) (answer, error) {
	client, err := spiffeid.FromString(given.Peer)
	if err != nil {
		return nil, err
	}
	credentials := grpccredentials.MTLSServerCredentials(w.x509, w.x509, tlsconfig.AuthorizeID(client))
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	server := grpc.NewServer(grpc.Creds(credentials))
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: "interop.Echo",
		HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{
			MethodName: "Say",
			Handler: func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
				return w.say(ctx, decode, given.Audience)
			},
		}},
	}, nil)
	go func() { _ = server.Serve(listener) }()
	return answer{"address": listener.Addr().String()}, nil
}

func (w *workload) say(ctx context.Context, decode func(any) error, audience string) (any, error) {
	message := &wrapperspb.StringValue{}
	if err := decode(message); err != nil {
		return nil, err
	}
	peer, known := grpccredentials.PeerIDFromContext(ctx)
	values := metadata.ValueFromIncomingContext(ctx, "authorization")
	if !known || len(values) != 1 {
		return nil, status.Error(codes.Unauthenticated, "one X.509-SVID and one JWT-SVID are needed")
	}
	token, bearer := strings.CutPrefix(values[0], "Bearer ")
	svid, err := jwtsvid.ParseAndValidate(token, w.jwt, []string{audience})
	if !bearer || err != nil || svid.ID != peer {
		return nil, status.Error(codes.Unauthenticated, "the JWT-SVID is not good")
	}
	return wrapperspb.String(peer.String() + " " + message.GetValue()), nil
}

// Calls the same method of another server; with a JWT-SVID if an audience is given.
func (w *workload) callGRPC(ctx context.Context, given order) (answer, error) {
	server, err := spiffeid.FromString(given.Peer)
	if err != nil {
		return nil, err
	}
	credentials := grpccredentials.MTLSClientCredentials(w.x509, w.x509, tlsconfig.AuthorizeID(server))
	conn, err := grpc.NewClient(given.Address, grpc.WithTransportCredentials(credentials))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if given.Audience != "" {
		svid, err := w.jwt.FetchJWTSVID(ctx, jwtsvid.Params{Audience: given.Audience})
		if err != nil {
			return nil, err
		}
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+svid.Marshal())
	}
	reply := &wrapperspb.StringValue{}
	if err := conn.Invoke(ctx, method, wrapperspb.String("hello"), reply); err != nil {
		return answer{"code": status.Code(err).String(), "error": err.Error()}, nil
	}
	return answer{"line": reply.GetValue()}, nil
}
