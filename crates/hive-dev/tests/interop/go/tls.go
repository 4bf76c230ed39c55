package main

import (
	"bufio"
	"context"
	"net"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
)

// Serves until the process ends: sends each line back, behind the SPIFFE ID of whoever sent it.
func (w *workload) serve(ctx context.Context, given order) (answer, error) {
	client, err := spiffeid.FromString(given.Peer)
	if err != nil {
		return nil, err
	}
	mode := spiffetls.MTLSServerWithSource(tlsconfig.AuthorizeID(client), w.x509)
	listener, err := spiffetls.ListenWithMode(ctx, "tcp", "127.0.0.1:0", mode)
	if err != nil {
		return nil, err
	}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go echo(conn)
		}
	}()
	return answer{"address": listener.Addr().String()}, nil
}

func echo(conn net.Conn) {
	defer conn.Close()
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return
	}
	if peer, err := spiffetls.PeerIDFromConn(conn); err == nil {
		_, _ = conn.Write([]byte(peer.String() + " " + line))
	}
}

// Sends one line and says what came back, and from whom.
func (w *workload) call(ctx context.Context, given order) (answer, error) {
	server, err := spiffeid.FromString(given.Peer)
	if err != nil {
		return nil, err
	}
	mode := spiffetls.MTLSClientWithSource(tlsconfig.AuthorizeID(server), w.x509)
	conn, err := spiffetls.DialWithMode(ctx, "tcp", given.Address, mode)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if until, limited := ctx.Deadline(); limited {
		_ = conn.SetDeadline(until)
	}
	if _, err := conn.Write([]byte("hello\n")); err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return nil, err
	}
	peer, err := spiffetls.PeerIDFromConn(conn)
	if err != nil {
		return nil, err
	}
	return answer{"peer": peer.String(), "line": line[:len(line)-1]}, nil
}
