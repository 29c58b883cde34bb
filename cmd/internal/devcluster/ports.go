package devcluster

import (
	"net"
	"strconv"
)

const (
	// The first block of ports begins with the default of http.listen. A block has a
	// port for each of MaxInstances instances.
	firstPort = 8470
	blockSize = 10
	maxBlocks = 50
)

// A portBlock is the block of ports on which the instances of a cluster listen. No other
// cluster uses them, even while an instance is down.
type portBlock struct {
	first int // 0 if no block was free

	// lock is open while the block is used. It is a UDP port, so that an instance can
	// listen on the TCP port.
	lock net.PacketConn
}

// claimPorts claims the first block of ports that no other cluster uses.
func claimPorts() *portBlock {
	for n := range maxBlocks {
		first := firstPort + n*blockSize
		if lock, err := net.ListenPacket("udp", address(first)); err == nil {
			return &portBlock{first: first, lock: lock}
		}
	}
	return &portBlock{}
}

func (p *portBlock) close() {
	if p.lock != nil {
		p.lock.Close()
	}
}

// addresses returns n addresses to listen on, at most MaxInstances. If another program
// uses a port of the block, the system chooses another one.
func (p *portBlock) addresses(n int) []string {
	addresses := make([]string, n)
	for i := range addresses {
		ports := []int{0} // the system chooses
		if p.first != 0 {
			ports = []int{p.first + i, 0}
		}
		for _, port := range ports {
			addresses[i] = address(port)
			if l, err := net.Listen("tcp", addresses[i]); err == nil {
				defer l.Close() // after the loop, so that the addresses differ
				addresses[i] = l.Addr().String()
				break
			}
		}
	}
	return addresses
}

func address(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
