package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffegrpc/grpccredentials"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const payloadBytes = 128

func call(endpoint, server string, connections, inFlight int, orders *bufio.Scanner) error {
	if !orders.Scan() {
		return errors.New("it was not told to attach")
	}
	address, told := strings.CutPrefix(orders.Text(), "attach ")
	if !told {
		return errors.New("the first order is attach")
	}
	channels, err := connect(endpoint, server, address, connections)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	for orders.Scan() {
		lasts, err := time.ParseDuration(strings.TrimPrefix(orders.Text(), "run ") + "ms")
		if err != nil {
			return err
		}
		if err := load(channels, inFlight, lasts); err != nil {
			return err
		}
	}
	return nil
}

func connect(endpoint, server, address string, connections int) ([]*grpc.ClientConn, error) {
	workload, err := attach(endpoint)
	if err != nil {
		return nil, err
	}
	expected, err := spiffeid.FromString(server)
	if err != nil {
		return nil, err
	}
	credentials := grpccredentials.MTLSClientCredentials(workload.x509, workload.x509, tlsconfig.AuthorizeID(expected))
	tokens := &tokens{source: workload.jwt, audience: os.Getenv("HIVE_BENCH_AUDIENCE")}
	var channels []*grpc.ClientConn
	for range connections {
		channel, err := grpc.NewClient(address, grpc.WithTransportCredentials(credentials), grpc.WithPerRPCCredentials(tokens))
		if err != nil {
			return nil, err
		}
		channels = append(channels, channel)
	}
	return channels, nil
}

// The JWT-SVID for each call, fetched anew when less than a third of its life is left.
type tokens struct {
	source   *workloadapi.JWTSource
	audience string

	mutex   sync.RWMutex
	header  map[string]string
	renewAt time.Time
}

func (t *tokens) GetRequestMetadata(ctx context.Context, _ ...string) (map[string]string, error) {
	t.mutex.RLock()
	header, renewAt := t.header, t.renewAt
	t.mutex.RUnlock()
	if header != nil && time.Now().Before(renewAt) {
		return header, nil
	}
	svid, err := t.source.FetchJWTSVID(ctx, jwtsvid.Params{Audience: t.audience})
	if err != nil {
		return nil, err
	}
	header = map[string]string{"authorization": "Bearer " + svid.Marshal()}
	t.mutex.Lock()
	defer t.mutex.Unlock()
	t.header, t.renewAt = header, time.Now().Add(time.Until(svid.Expiry)*2/3)
	return header, nil
}

func (t *tokens) RequireTransportSecurity() bool {
	return true
}

// Keeps so many calls in flight for so long, and says what came of it.
func load(channels []*grpc.ClientConn, inFlight int, lasts time.Duration) error {
	began := time.Now()
	until := began.Add(lasts)
	latencies, failures := make([][]uint32, inFlight), make([]error, inFlight)
	var all sync.WaitGroup
	for number := range inFlight {
		all.Go(func() {
			latencies[number], failures[number] = calls(channels[number%len(channels)], until)
		})
	}
	all.Wait()
	if err := errors.Join(failures...); err != nil {
		return err
	}
	took, sorted := time.Since(began), slices.Concat(latencies...)
	slices.Sort(sorted)
	at := func(share float64) uint32 { return sorted[int(float64(len(sorted))*share)] }
	fmt.Println(len(sorted), took.Microseconds(), at(0.5), at(0.99))
	return nil
}

// One call after another; how long each took, in microseconds.
func calls(channel *grpc.ClientConn, until time.Time) ([]uint32, error) {
	latencies := make([]uint32, 0, 16_384)
	payload := bytes.Repeat([]byte("x"), payloadBytes)
	for {
		began := time.Now()
		if !began.Before(until) {
			return latencies, nil
		}
		answer := &wrapperspb.BytesValue{}
		if err := channel.Invoke(context.Background(), method, wrapperspb.Bytes(payload), answer); err != nil {
			return nil, err
		}
		if len(answer.GetValue()) != payloadBytes {
			return nil, errors.New("the answer is not an echo")
		}
		latencies = append(latencies, uint32(time.Since(began).Microseconds()))
	}
}
