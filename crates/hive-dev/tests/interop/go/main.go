// A workload that knows SPIFFE through go-spiffe, and does what it is told.
//
// It reads one order a line from standard input, as JSON, and writes one answer a line to standard output. It ends
// with its input. Tokens travel in these lines and nowhere else.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"
)

// No order may take longer; the tests that give them wait somewhat longer than that.
const deadline = 15 * time.Second

type order struct {
	Do       string `json:"do"`
	Address  string `json:"address"`
	Audience string `json:"audience"`
	Peer     string `json:"peer"`
	Token    string `json:"token"`
}

type answer map[string]any

func main() {
	workload := &workload{}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(make([]byte, 0, 64*1024), 1024*1024)
	for lines.Scan() {
		said, err := obey(workload, lines.Bytes())
		if err != nil {
			said = answer{"error": err.Error()}
		}
		line, err := json.Marshal(said)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println(string(line))
	}
}

func obey(workload *workload, line []byte) (answer, error) {
	var given order
	if err := json.Unmarshal(line, &given); err != nil {
		return nil, errors.New("an order is a JSON object on one line")
	}
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	if given.Do == "attach" {
		return workload.attach(ctx, given)
	}
	if workload.x509 == nil {
		return nil, errors.New("the first order is attach")
	}
	orders := map[string]func(context.Context, order) (answer, error){
		"x509":       workload.currentX509,
		"keys":       workload.currentKeys,
		"fetch":      workload.fetch,
		"verify":     workload.verify,
		"validate":   workload.validate,
		"serve":      workload.serve,
		"call":       workload.call,
		"serve_grpc": workload.serveGRPC,
		"call_grpc":  workload.callGRPC,
	}
	do, known := orders[given.Do]
	if !known {
		return nil, fmt.Errorf("there is no order %q", given.Do)
	}
	return do(ctx, given)
}
