package localserver

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
)

// loopback is the only address that anything here listens on.
const loopback = "127.0.0.1"

// Ports are chosen below the range from which the kernel takes the local ports of
// outgoing connections. Otherwise a client's connection could take the port of a server
// that is being restarted. highestPort is used if the kernel does not tell its range.
const (
	lowestPort  = 16384
	highestPort = 32767
)

// portAttempts is how often a start is tried. A retry is needed if another program
// takes a port after it was chosen and before the server uses it.
const portAttempts = 5

// onFreePorts calls start with n free ports. If start fails and one of the ports is
// taken, onFreePorts calls start again with other ports.
func onFreePorts(n int, start func(ports []int) error) error {
	for attempt := 1; ; attempt++ {
		ports, err := freePorts(n)
		if err != nil {
			return err
		}
		err = start(ports)
		if err == nil || attempt == portAttempts || !anyTaken(ports) {
			return err
		}
	}
}

// freePorts returns n different ports that nothing listens on.
func freePorts(n int) ([]int, error) {
	highest := highestPort
	if text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range"); err == nil {
		var first int
		if _, err := fmt.Sscan(string(text), &first); err == nil && first > lowestPort {
			highest = first - 1
		}
	}
	ports := make([]int, 0, n)
	for range 100 * n {
		port := lowestPort + rand.IntN(highest-lowestPort+1)
		l, err := net.Listen("tcp", address(port))
		if err != nil {
			continue
		}
		defer l.Close() // open until all ports are found, so that all differ
		if ports = append(ports, port); len(ports) == n {
			return ports, nil
		}
	}
	return nil, fmt.Errorf("there are no %d free ports between %d and %d on %s", n, lowestPort, highest, loopback)
}

// anyTaken reports whether something listens on one of the ports.
func anyTaken(ports []int) bool {
	for _, port := range ports {
		l, err := net.Listen("tcp", address(port))
		if err != nil {
			return true
		}
		l.Close()
	}
	return false
}

func address(port int) string {
	return net.JoinHostPort(loopback, strconv.Itoa(port))
}
