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

// Ports are drawn from below those that the kernel hands to outgoing
// connections: a client's connection must not take a server's port while that
// server is being restarted. These bounds hold where the kernel does not tell.
const (
	lowestPort  = 16384
	highestPort = 32767
)

// portAttempts bounds how often a start is tried anew because another program
// took a port between its being chosen and its being used.
const portAttempts = 5

// onFreePorts calls start with n free ports. If it fails and one of them is
// taken, it is called again with others.
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
		defer l.Close() // held until all are found, so that none is found twice
		if ports = append(ports, port); len(ports) == n {
			return ports, nil
		}
	}
	return nil, fmt.Errorf("found no %d free ports between %d and %d on %s", n, lowestPort, highest, loopback)
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
