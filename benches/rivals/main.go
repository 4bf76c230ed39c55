// grpc-go with go-spiffe, doing what the layered server and client of crates/hive-security/benches/layered do.
//
// Arguments and orders are the same as there: see child.rs.
package main

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
)

func main() {
	orders := bufio.NewScanner(os.Stdin)
	arguments := os.Args[1:]
	if err := run(arguments, orders); err != nil {
		fmt.Fprintln(os.Stderr, "rival:", err)
		os.Exit(1)
	}
}

func run(arguments []string, orders *bufio.Scanner) error {
	switch {
	case len(arguments) == 4 && arguments[0] == "serve":
		return serve(arguments[2], arguments[3], orders)
	case len(arguments) == 6 && arguments[0] == "call":
		connections, err := strconv.Atoi(arguments[4])
		if err != nil {
			return err
		}
		inFlight, err := strconv.Atoi(arguments[5])
		if err != nil {
			return err
		}
		return call(arguments[2], arguments[3], connections, inFlight, orders)
	}
	return fmt.Errorf("usage: rival serve go ENDPOINT CLIENT | rival call go ENDPOINT SERVER CONNECTIONS IN_FLIGHT")
}
